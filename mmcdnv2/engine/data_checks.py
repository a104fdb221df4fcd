"""Checks a config's data before hours are spent on it."""

import logging
import os
import time
from collections import Counter
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from mmdet.datasets import BaseDetDataset
from mmdet.models.dense_heads import RPNHead
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch import nn

from ..config import type_of, typed_dicts
from ..datasets.coco import CROSSING, USED, CocoFile
from ..datasets.image_files import SeenImage, inspect_images
from ..errors import ConfigError, DataError, in_one_line

# How long the images of a data set are opened, in seconds; of COCO all are.
IMAGE_SECONDS = 60.0
# How many bad images are named in the log.
_NAMED = 50
# Backends that read local files: mmengine's, and FileClient's of older configs.
_LOCAL_BACKENDS = ('local', 'disk')
# Where each launcher says which of a machine's processes this one is.
_LOCAL_RANKS = {
    'pytorch': ('LOCAL_RANK',),
    'slurm': ('SLURM_LOCALID', 'SLURM_PROCID'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK',),
}
# Heads of a detector that do not classify its objects.
_OTHER_HEADS = ('rpn', 'roi_head.mask', 'roi_head.point', 'semantic', 'reid')


class _CocoPart(NamedTuple):
    """A COCO file that a loader reads, and the number of objects to train on."""

    file: CocoFile
    classes: Sequence[str]
    used: int


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
    """Check the local files that a data loader and its evaluator will read.

    These are COCO's annotation files, mmpretrain's lists and folders of images,
    and the images. Of other data sets only the annotation file must exist.
    Warnings are logged of what is odd but used, or left out.

    Args:
        cfg (Config): A config.
        loader (str): Name of the data loader, for example
            'train_dataloader'.

    Raises:
        ConfigError: If such a file or folder is missing.
        DataError: If it cannot be what it is meant to be.
    """
    dataset = (cfg.get(loader) or {}).get('dataset') or {}
    subsets: List[List[_CocoPart]] = []
    has_others = False
    for subset in dataset.get('datasets') or [dataset]:
        subsets.append([])
        for part, built in _built_parts(subset, cfg):
            began = time.perf_counter()
            if _is_remote(part, built.ann_file, *built.data_prefix.values()):
                _log(
                    f'{loader}: {built.ann_file} and its images are not checked, as '
                    'a storage backend reads them.'
                )
                has_others = True
                continue
            _check_existence(built.ann_file, loader)
            if _reads_as(built, 'CocoDataset'):
                subsets[-1].append(_check_coco(part, built, loader))
            elif _reads_as(built, 'CustomDataset'):
                _check_listing(part, built, cfg, loader)
            else:
                has_others = True
                continue
            source = built.ann_file or built.img_prefix
            seconds = time.perf_counter() - began
            _log(f'{loader}: {source} and its images checked in {seconds:.1f} s')
    parts = [part for subset in subsets for part in subset]
    if loader != 'train_dataloader':
        _check_evaluator(subsets, cfg, loader)
    elif parts and not has_others and not any(part.used for part in parts):
        total = sum(len(part.file.annotations) for part in parts)
        raise DataError(
            f'{", ".join(part.file.path for part in parts)} has no annotation that '
            f'{loader} could use, out of {total}: boxes of its classes, at least a '
            'pixel wide and high, inside of images that its filter_cfg keeps were '
            'expected; correct the file or use another one.'
        )


def check_heads(model: nn.Module, cfg: Config, loaders: Sequence[str]) -> None:
    """Compare the classes of a detector's heads with those of its data.

    MMDetection trains a class that the head does not have as background. Data sets
    that are panoptic or whose classes are text prompts are left out.

    Args:
        model (nn.Module): The detector; another network has no such data.
        cfg (Config): Its config.
        loaders (Sequence[str]): Names of the data loaders.

    Raises:
        ConfigError: If a head has fewer classes than the data.
    """
    heads = {
        name: module.num_classes
        for name, module in model.named_modules()
        if type(module).__name__.endswith('Head')
        and isinstance(getattr(module, 'num_classes', None), int)
        and not isinstance(module, RPNHead)
        and not any(word in name for word in _OTHER_HEADS)
    }
    warnings: Dict[int, str] = {}
    for loader in loaders:
        for part, built in _built_parts((cfg.get(loader) or {}).get('dataset'), cfg):
            meta = built.metainfo
            has_others = 'thing_classes' in meta or part.get('return_classes')
            if not isinstance(built, BaseDetDataset) or has_others:
                continue
            classes = meta.get('classes')
            if classes is None or not len(classes):
                continue
            count = len(classes)
            wrong = {head: n for head, n in heads.items() if n != count}
            listed = ', '.join(f'{head}.num_classes={n}' for head, n in wrong.items())
            sentence = f'the data of {loader} has {count} classes, the model {listed}'
            if any(n < count for n in wrong.values()):
                raise ConfigError(
                    f'{sentence}, so objects would be taken for background: set '
                    f'num_classes to {count}, or {loader}.dataset.metainfo.classes to '
                    "the model's."
                )
            if wrong:
                warnings.setdefault(count, f'{sentence}: the others are never trained.')
    for sentence in warnings.values():
        _warn(sentence)


def _built_parts(node: Any, cfg: Config) -> Iterator[Tuple[Dict, BaseDataset]]:
    """Build the data sets in a part of a config, without reading their files."""
    for part in typed_dicts(node):
        # Parts from another package's config have their own scope.
        scope = part.get('_scope_', cfg.get('default_scope'))
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = part['type']
            kind = registry.get(kind) if isinstance(kind, str) else kind
            if not (isinstance(kind, type) and issubclass(kind, BaseDataset)):
                continue
            try:
                built = registry.build({**part, 'pipeline': [], 'lazy_init': True})
            except Exception:
                # Whatever it is, MMEngine will meet it, too.
                continue
        yield part, built


def _reads_as(dataset: BaseDataset, name: str) -> bool:
    """Return whether a data set reads its files as that class of OpenMMLab does."""
    kind, own = type(dataset), ('load_data_list', 'parse_data_info', '_find_samples')
    for base in kind.__mro__:
        if base.__name__ == name and base.__module__.startswith(
            ('mmdet', 'mmpretrain')
        ):
            return all(getattr(kind, k, None) is getattr(base, k, None) for k in own)
    return False


def _is_remote(part: Dict, *paths: Any) -> bool:
    settings = [
        each.get(key) or {}
        for each in typed_dicts(part)
        for key in ('backend_args', 'file_client_args')
    ]
    return any('://' in str(path) for path in paths) or any(
        each.get('backend', 'local') not in _LOCAL_BACKENDS for each in settings
    )


def _check_existence(path: str, name: str) -> None:
    if path and not os.path.exists(path):
        raise ConfigError(
            f'{name} expects its data in {path}, which does not exist: put it there or '
            f'correct the paths of {name} (data_root, ann_file, data_prefix).'
        )


def _check_coco(part: Dict, dataset: BaseDataset, loader: str) -> _CocoPart:
    """Check a COCO file and its images."""
    file = CocoFile(dataset.ann_file)
    classes = dataset.metainfo['classes']
    trains = loader == 'train_dataloader'
    # A part of unlabelled images may have any categories.
    if file.annotations or not trains:
        file.check_classes(classes, loader)
    masks = [p for p in _pipeline(part, 'LoadAnnotations') if p.get('with_mask')]
    fates = file.fates(classes, masks[0] if masks else None)
    for sentence, is_serious in file.findings(fates):
        _log(sentence, logging.WARNING if is_serious else logging.INFO)
    images = file.images
    if not dataset.test_mode:
        images = file.kept_images(classes, dataset.filter_cfg)
    images = _chosen(images, dataset._indices)
    paths = [os.path.join(dataset.data_prefix['img'], i['file_name']) for i in images]
    sizes = [(image['width'], image['height']) for image in images]
    for loading in _pipeline(part, 'LoadImageFromFile')[:1]:
        # Without boxes nothing depends on the sizes in the file.
        expected = sizes if file.annotations else None
        _check_images(paths, loading, loader, file.path, expected)
    for loading in _pipeline(part, 'LoadAnnotations'):
        folder = dataset.data_prefix.get('seg')
        if folder and loading.get('with_seg'):
            stems = [image['file_name'].rsplit('.', 1)[0] for image in images]
            paths = [os.path.join(folder, s + dataset.seg_map_suffix) for s in stems]
            loading = dict(loading, color_type='unchanged')
            _check_images(paths, loading, loader, file.path)
    ids = {image['id'] for image in images}
    used = sum(
        fate in (USED, CROSSING) and annotation['image_id'] in ids
        for fate, annotation in zip(fates, file.annotations)
    )
    return _CocoPart(file, classes, used)


def _check_evaluator(subsets: List[List[_CocoPart]], cfg: Config, loader: str) -> None:
    """Check that COCO metrics can judge what they will get."""
    name = loader.replace('_dataloader', '_evaluator')
    evaluator = cfg.get(name)
    pairs = [(evaluator, [part for subset in subsets for part in subset])]
    if isinstance(evaluator, dict) and 'dataset_prefixes' in evaluator:
        # A MultiDatasetsEvaluator has a metric for each data set.
        pairs = list(zip(evaluator['metrics'], subsets))
    for node, parts in pairs:
        for metric in typed_dicts(node):
            remote = _is_remote(metric, metric.get('ann_file') or '')
            if type_of(metric) == 'CocoMetric' and parts and not remote:
                _check_metric(metric, parts, name, loader)


def _check_metric(metric: Dict, parts: List[_CocoPart], name: str, loader: str) -> None:
    classes, path = parts[0].classes, metric.get('ann_file')
    truths = [part.file for part in parts]
    if path:
        _check_existence(path, name)
        known = [file for file in truths if os.path.samefile(file.path, path)]
        truths = known or [CocoFile(path)]
        truths[0].check_classes(classes, loader)
    if metric.get('format_only'):
        return
    kinds = metric.get('metric', 'bbox')
    has_truth = [
        truth.check_evaluation(classes, 'segm' in kinds, is_converted=not path)
        for truth in truths
    ]
    if not any(has_truth):
        _warn(
            f'{truths[0].path} has no annotations, so {name} has nothing to judge by: '
            f'every precision will be -1 unless {name}.format_only is set.'
        )
    for part in parts if path else []:
        if lacking := truths[0].lacks_images_of(part.file):
            raise DataError(
                f'{path} lacks {len(lacking)} of the {len(part.file.images)} images in '
                f'{part.file.path}, for example that of id {lacking[0]!r}, so what is '
                f'found in them cannot be judged: set {name}.ann_file to the file of '
                f'{loader}.'
            )


def _pipeline(part: Dict, kind: str) -> List[Dict]:
    """Return the steps of a type in a data set's pipeline."""
    steps = typed_dicts(part.get('pipeline'))
    return [step for step in steps if type_of(step) == kind]


def _chosen(values: List, indices: Any) -> List:
    """Return what a data set's ``indices`` leave of its images."""
    if indices is None:
        return values
    if isinstance(indices, int):
        return values[:indices] if indices >= 0 else values[indices:]
    return [values[i] for i in indices]


def _check_listing(part: Dict, dataset: BaseDataset, cfg: Config, loader: str) -> None:
    """Check a list of images or a folder of them."""
    source = dataset.ann_file or dataset.img_prefix
    _check_existence(source, loader)
    try:
        samples = dataset.load_data_list()
    except Exception as error:
        raise DataError(
            f'{source} cannot be read as images of {loader} ({in_one_line(error)}): '
            "lines of a name, a space and a class's number, or a folder of images for "
            'each class were expected.'
        ) from error
    if not samples:
        raise DataError(f'{source} is empty: a list of images was expected.')
    if hasattr(dataset, 'folder_to_idx') and loader != 'train_dataloader':
        _compare_folders(dataset, cfg)
    head = (cfg.get('model') or {}).get('head')
    counts = [head.get('num_classes') if isinstance(head, dict) else None]
    counts.append(len(dataset.CLASSES or ()))
    limit = min(filter(None, counts), default=float('inf'))
    labels = [(sample.get('gt_label', 0), sample['img_path']) for sample in samples]
    if bad := [each for each in labels if not 0 <= each[0] < limit]:
        raise DataError(
            f'{source} has labels out of range, {len(bad)} of {len(labels)}, for '
            f'example {bad[0][0]} of {bad[0][1]}, where labels from 0, below {limit} '
            "were expected: correct it or set the model's num_classes and "
            f'{loader}.dataset.metainfo.classes.'
        )
    paths = _chosen([sample['img_path'] for sample in samples], dataset._indices)
    for loading in _pipeline(part, 'LoadImageFromFile')[:1]:
        _check_images(paths, loading, loader, source)


def _compare_folders(dataset: BaseDataset, cfg: Config) -> None:
    """Reject class folders other than those that the labels were learned from."""
    training = (cfg.get('train_dataloader') or {}).get('dataset')
    for _, other in _built_parts(training, cfg):
        if not _reads_as(other, 'CustomDataset') or other.ann_file:
            continue
        if not other.with_label or not os.path.isdir(other.img_prefix):
            continue
        trained = {each.name for each in os.scandir(other.img_prefix) if each.is_dir()}
        if differing := sorted(trained ^ set(dataset.folder_to_idx)):
            raise DataError(
                f'{dataset.img_prefix} has other folders than {other.img_prefix}, in '
                f'{len(differing)} names, for example {differing[0]!r}, and classes '
                'would be taken for each other: make the folders the same, empty ones '
                'too.'
            )


def _check_images(
    paths: List[str],
    loading: Dict,
    loader: str,
    source: str,
    sizes: Optional[List[Tuple[int, int]]] = None,
) -> None:
    """Reject image files that the pipeline's loader would stop at."""
    seen = inspect_images(paths, IMAGE_SECONDS, loading)
    faults = {i: image.fault for i, image in seen.items() if image.fault}
    if faults:
        kinds = Counter(faults.values()).items()
        sentence = (
            f'{source} names images that cannot be used, {len(faults)} of {len(paths)} '
            f'({", ".join(f"{count} {kind}" for kind, count in kinds)}), for example '
            f'{paths[next(iter(faults))]}'
        )
        # MMCV's loader takes another image where it finds none, if it is told to.
        if loading.get('ignore_empty') and 'missing' in faults.values():
            _warn(f'{sentence}: others are taken instead.')
            return
        if len(faults) > 1:
            some = list(faults.items())[:_NAMED]
            listed = '\n'.join(f'{kind}: {paths[i]}' for i, kind in some)
            _warn(f'{len(some)} of {len(faults)} bad images:\n{listed}')
        raise DataError(
            f'{sentence}: replace them, take them out of the list, or correct '
            f'data_root, data_prefix or LoadImageFromFile of {loader}.'
        )
    if len(seen) < len(paths):
        _warn(
            f'{loader}: {len(seen)} of {len(paths)} images were opened in '
            f'{IMAGE_SECONDS:.0f} s, and they are whole; the others exist.'
        )
    if sizes is not None:
        _compare_sizes(paths, seen, sizes, loader, source)


def _compare_sizes(
    paths: List[str],
    seen: Dict[int, SeenImage],
    sizes: List[Tuple[int, int]],
    loader: str,
    source: str,
) -> None:
    """Compare the sizes in a file with those of the loaded images."""
    turned = {i: image for i, image in seen.items() if image.orientation >= 5}
    swapped = [
        i for i, image in turned.items() if image.size == sizes[i][::-1] != sizes[i]
    ]
    if swapped:
        first = swapped[0]
        raise DataError(
            f'{source} has width and height swapped for {len(swapped)} of {len(seen)} '
            f'images, which EXIF says to turn, for example {_size(sizes[first])} for '
            f'{paths[first]}, which is loaded as {_size(seen[first].size)}, so boxes '
            'would lie beside their objects: if they were drawn on images that were '
            f"not turned, set color_type='color_ignore_orientation' of {loader}'s "
            "LoadImageFromFile, else 'color', or save the images without EXIF."
        )
    if bad := [i for i, image in seen.items() if image.size != sizes[i]]:
        first = bad[0]
        _warn(
            f'{source} has other sizes than the images, {len(bad)} of {len(seen)}, for '
            f'example {_size(sizes[first])} for {paths[first]} of '
            f'{_size(seen[first].size)}: boxes are taken in pixels of the image files.'
        )
    # Images that are square, mirrored or upside down have the same size either way.
    unsure = [i for i, image in seen.items() if image.orientation > 1]
    if unsure and all(sizes[i][0] == sizes[i][1] for i in turned):
        _warn(
            f'{source} has {len(unsure)} images that EXIF says to turn or mirror, for '
            f'example {paths[unsure[0]]}; their sizes do not show whether the boxes '
            'were drawn on turned ones: look at some.'
        )


def _size(size: Any) -> str:
    return f'{size[0]:g}x{size[1]:g}'


def _warn(sentence: str) -> None:
    _log(sentence, logging.WARNING)


def _log(sentence: str, level: int = logging.INFO) -> None:
    print_log(sentence, logger='current', level=level)
