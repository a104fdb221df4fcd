"""The data that a study trains on."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.registry import DATASETS

from mmcdnv2.config import typed_dicts
from mmcdnv2.engine.data_checks import check_data
from mmcdnv2.errors import ConfigError, InputError, in_one_line


@dataclass(frozen=True)
class DataSet:
    """What a data set holds.

    Attributes:
        images (int): Number of images.
        classes (int): Number of classes.
        shape (tuple[int]): Height and width of the first image, as a network
            sees it.
    """

    images: int
    classes: int
    shape: Tuple[int, int]


def make_missing_data(cfg: Config, data_root: Optional[str]) -> None:
    """Make the digits, if the config says ``makes_digits`` and they are missing.

    Args:
        cfg (Config): The study's config.
        data_root (str, optional): The user's own folder, in which nothing is
            made.
    """
    root = cfg.train_dataloader.dataset.get('data_root')
    if data_root or not cfg.get('makes_digits') or Path(root).exists():
        return
    try:
        from ..digits import make_classification

        # It imports scikit-learn only when it is called.
        make_classification(root)
    except ImportError as error:
        raise InputError(
            f'{error.name} is missing, which has the digits to make data of: pip '
            "install 'mmcdnv2[demo]', or name a folder with other data."
        ) from error
    except (OSError, InputError):
        # Another study may have made them in the meantime.
        if not Path(root).exists():
            raise


def check_data_sets(
    cfg: Config, loaders: Sequence[str], known: Dict[str, DataSet]
) -> List[DataSet]:
    """Look into a config's data sets.

    Args:
        cfg (Config): Config of a classifier.
        loaders (Sequence[str]): Names of its data loaders.
        known (dict[str, DataSet]): Data sets looked into before; extended.

    Returns:
        list[DataSet]: What they hold, one for each loader.

    Raises:
        ConfigError: If data is missing or there are not as many classes as
            the head tells apart.
    """
    found = []
    for loader in loaders:
        key = json.dumps(cfg[loader].dataset, sort_keys=True, default=str)
        if key not in known:
            check_data(cfg, loader)
            known[key] = _look_into(cfg, loader)
        data = known[key]
        classes = cfg.model.get('head', {}).get('num_classes', data.classes)
        if data.classes != classes:
            raise ConfigError(
                f'the data of {loader} has {data.classes} classes and the head '
                f'{classes}: set model.head.num_classes.'
            )
        found.append(data)
    return found


def _look_into(cfg: Config, loader: str) -> DataSet:
    dataset = cfg[loader].dataset
    root = dataset.get('data_root')
    try:
        built = DATASETS.build(dataset)
        images = len(built)
        classes = len(built.metainfo.get('classes') or ())
        shape = tuple(built[0]['inputs'].shape[-2:]) if images else (0, 0)
    except Exception as error:
        # Data sets of other packages raise anything at all.
        raise ConfigError(
            f'the data of {loader} in {root} cannot be used, {in_one_line(error)}'
        ) from error
    if not images or not classes:
        raise ConfigError(
            f'the data of {loader} in {root} has {classes} classes and {images} '
            'images: a folder of images for each class was expected.'
        )
    return DataSet(images, classes, shape)


def fingerprint_files(cfg: Config, loaders: Sequence[str]) -> str:
    """Hash the names and sizes of the files in a config's data folders.

    Args:
        cfg (Config): Config of a classifier.
        loaders (Sequence[str]): Names of its data loaders.

    Returns:
        str: The same as long as the data is, most likely.
    """
    roots = {
        str(part['data_root'])
        for loader in loaders
        for part in typed_dicts(cfg[loader].dataset)
        if part.get('data_root')
    }
    digest = hashlib.sha256()
    for root in sorted(roots):
        seen = set()
        for folder, folders, files in os.walk(root, followlinks=True):
            # Links may go round in circles.
            if os.path.realpath(folder) in seen:
                folders.clear()
                continue
            seen.add(os.path.realpath(folder))
            folders.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                if not os.path.exists(path):
                    # A link to nothing.
                    continue
                relative = os.path.relpath(path, root)
                digest.update(f'{relative} {os.path.getsize(path)}\n'.encode())
    return digest.hexdigest()
