"""A look at a config's data before hours are spent on it."""

import logging
import os
import time
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from ..config import type_of, typed_dicts
from ..datasets.coco import CocoFile
from ..datasets.image_files import look_into_images
from ..errors import ConfigError, DataError, in_one_line

# mmpretrain's data sets that, without annotations, list the images in a folder.
LISTING_DATASETS = ('CustomDataset', 'ImageNet', 'ImageNet21k')
# How long the images of a data set are opened, in seconds; of COCO all are.
IMAGE_SECONDS = 60.0
# How many bad images are named in the log.
_NAMED = 50
# Where each launcher says which of a machine's processes this one is.
_LOCAL_RANKS = {
    'pytorch': ('LOCAL_RANK',),
    'slurm': ('SLURM_LOCALID', 'SLURM_PROCID'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK',),
}


def is_first_of_machine(launcher: str) -> bool:
    """Say whether this process is the first of its machine.

    Args:
        launcher (str): What started the processes, see
            :func:`~mmcdnv2.engine.build_runner`.

    Returns:
        bool: By what the launcher has put into the environment, as the
        processes do not know each other yet.
    """
    names = _LOCAL_RANKS.get(launcher, ())
    ranks = [os.environ[name] for name in names if name in os.environ]
    return not ranks or ranks[0] == '0'


def check_data(cfg: Config, loader: str) -> None:
    """Check the local files that a data loader will read.

    Annotation files, or folders whose images mmpretrain lists, must exist. A
    missing folder of annotated images is only warned of, as annotations may
    name whole paths. Then the content of COCO's annotation files, of those of
    the evaluator too, of mmpretrain's lists and of folders that it lists is
    checked, and the ends of all image files. What is odd but used, or what is
    left out, is warned of. Other data sets are not looked into. Nothing is
    checked where the files are read by a storage backend.

    Args:
        cfg (Config): A config.
        loader (str): Name of the data loader, for example
            'train_dataloader'.

    Raises:
        ConfigError: If such a file or folder is missing.
        DataError: If it cannot be what it is meant to be.
    """
    parts = list(typed_dicts((cfg.get(loader) or {}).get('dataset')))
    if _has_backend(parts):
        return
    for dataset in parts:
        _check_existence(dataset, loader)
    for dataset in parts:
        built = _build_lazily(dataset, cfg.get('default_scope'))
        if built is None:
            continue
        began = time.perf_counter()
        if hasattr(built, 'COCOAPI'):
            summary = _check_coco(built, cfg, loader)
        else:
            summary = _check_listing(built, cfg, loader)
        seconds = time.perf_counter() - began
        print_log(f'{loader}: {summary} checked in {seconds:.1f} s', logger='current')


def _has_backend(parts: List[Dict]) -> bool:
    return any(
        part.get('backend_args') or part.get('file_client_args') for part in parts
    )


def _check_existence(dataset: Dict, loader: str) -> None:
    root = dataset.get('data_root') or ''
    annotations, images = _annotations_and_images(dataset, root)
    lists_images = not annotations and type_of(dataset) in LISTING_DATASETS
    if path := _missing(root, images if lists_images else annotations):
        raise ConfigError(
            f'{loader} expects its data in {path}, which does not exist: put it '
            f'there or set {loader}.dataset.data_root (and ann_file, data_prefix).'
        )
    if images and (path := _missing(root, images)):
        _warn(
            f'{loader} expects its images in {path}, which does not exist: unless '
            'the annotations name whole paths, the images will not be found.'
        )


def _annotations_and_images(dataset: Dict, root: str) -> Tuple[Any, Any]:
    """Look up where annotations and images are, relative to the root."""
    annotations = dataset.get('ann_file')
    images = dataset.get('data_prefix') or ''
    if isinstance(images, dict):
        # What other folders are for, and whether they are read, is not known.
        images = images.get('img') or images.get('img_path') or ''
    split = dataset.get('split')
    if split and type_of(dataset) in LISTING_DATASETS:
        images = images or split
        meta = f'meta/{split}.txt'
        if not annotations and not _missing(root, meta):
            annotations = meta
    return annotations, images


def _missing(root: Any, path: Any) -> Optional[str]:
    """Return the whole path if it is one of this machine and does not exist."""
    if not (isinstance(root, str) and isinstance(path, str)):
        return None
    whole = os.path.join(*map(os.path.expanduser, (root, path)))
    return None if '://' in whole or os.path.exists(whole) else whole


def _build_lazily(dataset: Dict, scope: Optional[str]) -> Any:
    """Build a data set that reads its files in a way known here, without reading.

    Args:
        dataset (dict): A part of a config.
        scope (str, optional): The config's default scope.

    Returns:
        BaseDataset | None: It knows its paths, classes and filters. None if it
        is of another kind, its files are not here, or it cannot be built.
    """
    # What a config takes from another package's has a scope of its own.
    scope = dataset.get('_scope_', scope)
    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = dataset['type']
        if isinstance(kind, str):
            kind = registry.get(kind)
        for base in getattr(kind, '__mro__', ()):
            known = (base.__name__, base.__module__.partition('.')[0])
            if known not in (('CocoDataset', 'mmdet'), ('CustomDataset', 'mmpretrain')):
                continue
            # A class that reads otherwise needs checks of its own.
            own = ('load_data_list', 'parse_data_info', '_find_samples')
            if any(getattr(kind, k, None) is not getattr(base, k, None) for k in own):
                return None
            try:
                built = registry.build({**dataset, 'pipeline': [], 'lazy_init': True})
                paths = [built.ann_file, *built.data_prefix.values()]
                return None if any('://' in path for path in paths) else built
            except Exception:
                # Whatever it is, MMEngine will meet it, too.
                return None
    return None


def _check_coco(dataset: Any, cfg: Config, loader: str) -> str:
    """Check a COCO file, the evaluator's and the images; return a summary."""
    trains = loader == 'train_dataloader'
    classes = dataset.metainfo['classes']
    file = CocoFile(dataset.ann_file, needs_annotations=trains)
    file.check_classes(classes, loader)
    is_used, findings = file.useful(classes)
    for finding in [*findings, *file.repeated_names()]:
        level = logging.WARNING if finding.is_serious else logging.INFO
        print_log(finding.sentence, logger='current', level=level)
    if trains:
        kept = file.kept_images(classes, dataset.filter_cfg)
        if not file.is_trainable(is_used, kept):
            raise DataError(
                f'{file.path} has no annotation that {loader} could use, out of '
                f'{len(file.annotations)}: boxes of its classes, at least a pixel wide '
                'and high, inside of images that its filter_cfg keeps were expected; '
                'correct the file or use another one.'
            )
    else:
        kept = np.ones(len(file.images), bool)
        _check_evaluator(file, classes, cfg, loader)
    places = _chosen(np.flatnonzero(kept), dataset._indices)
    folder = dataset.data_prefix.get('img') or ''
    paths = [os.path.join(folder, file.images[i]['file_name']) for i in places]
    sizes = file.image_sizes()[places]
    _check_images(paths, cfg, loader, file.path, sizes)
    return (
        f'{file.path}, {len(file.images)} images, {len(file.annotations)} annotations,'
    )


def _check_evaluator(
    file: CocoFile, classes: Sequence[str], cfg: Config, loader: str
) -> None:
    """Check that COCO metrics know the images and classes that they will get."""
    name = loader.replace('_dataloader', '_evaluator')
    for metric in typed_dicts(cfg.get(name)):
        if type_of(metric) != 'CocoMetric' or _has_backend([metric]):
            continue
        truth, path = file, metric.get('ann_file')
        if isinstance(path, str) and '://' not in path:
            if not os.path.exists(path):
                raise ConfigError(
                    f'{name} expects its annotations in {path}, which does not exist: '
                    f'put them there or set {name}.ann_file.'
                )
            if not os.path.samefile(path, file.path):
                needs = not metric.get('format_only', False)
                truth = CocoFile(path, needs_annotations=needs)
                truth.check_classes(classes, loader)
                truth.useful(classes)
                if lacking := truth.lacks_images_of(file):
                    raise DataError(
                        f'{path} lacks {len(lacking)} of the {len(file.images)} images '
                        f'in {file.path}, for example that of id {lacking[0]!r}, so '
                        f'what is found in them cannot be judged: set {name}.ann_file '
                        f'to the file of {loader}.'
                    )
        if not truth.annotations and not metric.get('format_only', False):
            _warn(
                f'{truth.path} has no annotations, so {name} has nothing to judge by: '
                f'every precision will be -1 unless {name}.format_only is set.'
            )


def _chosen(places: Any, indices: Any) -> Any:
    """Return what a data set's ``indices`` leave of its images."""
    if indices is None:
        return places
    if isinstance(indices, int):
        return places[:indices] if indices >= 0 else places[indices:]
    return places[list(indices)]


def _check_listing(dataset: Any, cfg: Config, loader: str) -> str:
    """Check a list of images or a folder of them; return a summary."""
    source = dataset.ann_file or dataset.img_prefix
    if dataset.ann_file:
        names, labels = _read_list(dataset)
    else:
        names, labels = _list_folder(dataset, cfg, loader)
    head = (cfg.get('model') or {}).get('head')
    counts = [head.get('num_classes') if isinstance(head, dict) else None]
    counts.append(len(dataset.CLASSES or ()))
    limit = min(filter(None, counts), default=None)
    bad = [
        i for i, k in enumerate(labels) if k < 0 or (limit is not None and k >= limit)
    ]
    if bad:
        wanted = 'from 0' if limit is None else f'from 0 to {limit - 1}'
        raise DataError(
            f'{source} has labels out of range, {len(bad)} of {len(labels)}, for '
            f'example {labels[bad[0]]} of {names[bad[0]]}, where labels {wanted} were '
            f"expected: correct it or set the model's num_classes and "
            f'{loader}.dataset.metainfo.classes.'
        )
    if len(set(names)) < len(set(zip(names, labels))):
        several = Counter(name for name, _ in set(zip(names, labels)))
        bad_names = [name for name, count in several.items() if count > 1]
        _warn(
            f'{source} has images with more than one label, {len(bad_names)} of '
            f'{len(several)}, for example {min(bad_names)}: each label is trained on.'
        )
    places = _chosen(np.arange(len(names)), dataset._indices)
    paths = [os.path.join(dataset.img_prefix, names[i]) for i in places]
    _check_images(paths, cfg, loader, source)
    return f'{source}, {len(names)} images,'


def _read_list(dataset: Any) -> Tuple[List[str], List[int]]:
    """Read names and labels from a text file as mmpretrain does."""
    path = dataset.ann_file
    try:
        lines = list_from_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f'{path} cannot be read as a list of images ({in_one_line(error)}): put '
            'one there or use another one.'
        ) from error
    if not any(line.strip() for line in lines):
        raise DataError(f'{path} is empty: a list of images was expected.')
    if not dataset.with_label:
        return lines, []
    names, labels, bad = [], [], []
    for i, line in enumerate(lines):
        name, _, label = line.strip().rpartition(' ')
        try:
            labels.append(int(label))
            names.append(name)
        except ValueError:
            bad.append(i)
    bad += [i for i, name in enumerate(names) if not name and not bad]
    if bad:
        raise DataError(
            f'{path} has lines that are not the name of an image, a space and the '
            f'number of its class, {len(bad)} of {len(lines)}, for example line '
            f'{bad[0] + 1}, {lines[bad[0]][:80]!r}: correct them.'
        )
    return names, labels


def _list_folder(dataset: Any, cfg: Config, loader: str) -> Tuple[List[str], List[int]]:
    """List a folder as mmpretrain does."""
    from mmpretrain.datasets.custom import find_folders, get_samples

    folder = dataset.img_prefix
    numbers = None
    if dataset.with_label:
        classes, numbers = find_folders(folder)
        if dataset.CLASSES is not None and len(dataset.CLASSES) != len(classes):
            raise DataError(
                f'{folder} has {len(classes)} folders and {loader} '
                f'{len(dataset.CLASSES)} classes: a folder for each class was expected.'
            )
        _compare_with_training(folder, classes, cfg, loader)
    samples, _ = get_samples(folder, numbers, dataset.is_valid_file)
    if not samples:
        raise DataError(
            f'{folder} has no images ({", ".join(sorted(dataset.extensions))})'
            f'{" in folders named by their class" if numbers is not None else ""}: put '
            f'them there or set {loader}.dataset.data_root (and data_prefix).'
        )
    if numbers is None:
        return list(samples), []
    names, labels = zip(*samples)
    return list(names), list(labels)


def _compare_with_training(
    folder: str, classes: List[str], cfg: Config, loader: str
) -> None:
    """Refuse class folders other than those that the labels were learned from."""
    from mmpretrain.datasets.custom import find_folders

    if loader == 'train_dataloader':
        return
    for part in typed_dicts((cfg.get('train_dataloader') or {}).get('dataset')):
        other = _build_lazily(part, cfg.get('default_scope'))
        if hasattr(other, 'COCOAPI') or getattr(other, 'ann_file', True):
            continue
        if not other.with_label or not os.path.isdir(other.img_prefix):
            continue
        trained, _ = find_folders(other.img_prefix)
        if trained != classes:
            differing = sorted(set(trained) ^ set(classes))
            raise DataError(
                f'{folder} has other folders than {other.img_prefix}, in '
                f'{len(differing)} names, for example {differing[0]!r}, and classes '
                'would be taken for each other: make the folders the same, empty ones '
                'too.'
            )


def _check_images(
    paths: List[str],
    cfg: Config,
    loader: str,
    source: str,
    sizes: Optional[np.ndarray] = None,
) -> None:
    """Refuse image files that a pipeline of MMCV's would stop at."""
    parts = list(typed_dicts(cfg[loader].dataset))
    loading = [part for part in parts if type_of(part) == 'LoadImageFromFile']
    if not loading:
        # How the images are read is not known.
        return
    report = look_into_images(paths, IMAGE_SECONDS, f'{loader}: images')
    if report.faults:
        kinds = Counter(report.faults.values())
        first = next(iter(report.faults))
        sentence = (
            f'{source} names images that cannot be used, {len(report.faults)} of '
            f'{len(paths)} ('
            f'{", ".join(f"{count} {kind}" for kind, count in kinds.items())}), for '
            f'example {paths[first]}'
        )
        # MMCV's loader takes another image where it finds none, if it is told to.
        if 'missing' in kinds and any(part.get('ignore_empty') for part in loading):
            _warn(f'{sentence}: others are taken instead.')
            return
        if len(report.faults) > 1:
            some = list(report.faults.items())[:_NAMED]
            listed = '\n'.join(f'{kind}: {paths[i]}' for i, kind in some)
            count = f'{len(some)} of {len(report.faults)}'
            _warn(f'{count} images that cannot be used:\n{listed}')
        raise DataError(
            f'{sentence}: put them there again, take them out of the list or set '
            f'{loader}.dataset.data_root (and data_prefix).'
        )
    if report.looked_into < len(paths):
        _warn(
            f'{loader}: {report.looked_into} of {len(paths)} images were opened in '
            f'{IMAGE_SECONDS:.0f} s, and they are whole; the others are there.'
        )
    if sizes is not None:
        _compare_sizes(paths, report.sizes, sizes, source)


def _compare_sizes(
    paths: List[str],
    found: Dict[int, Tuple[int, int]],
    expected: np.ndarray,
    source: str,
) -> None:
    # Images that are turned when they are read may be listed either way.
    bad = [i for i in sorted(found) if sorted(found[i]) != sorted(expected[i])]
    if bad:
        first = bad[0]
        told = 'x'.join(f'{value:g}' for value in expected[first])
        _warn(
            f'{source} has other sizes than the images, {len(bad)} of {len(found)}, '
            f'for example {told} for {paths[first]} of '
            f'{found[first][0]}x{found[first][1]}: boxes are taken in pixels of the '
            'image files.'
        )


def _warn(sentence: str) -> None:
    print_log(sentence, logger='current', level=logging.WARNING)
