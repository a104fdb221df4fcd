"""Make and check a study's data."""

import json
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
    """Size of a data set.

    Attributes:
        images (int): Number of images.
        classes (int): Number of classes.
        shape (tuple[int]): Height and width of the first image after the
            pipeline.
    """

    images: int
    classes: int
    shape: Tuple[int, int]


def make_missing_data(cfg: Config, data_root: Optional[str]) -> None:
    """Make the digits if the config sets ``makes_digits`` and they are missing.

    Args:
        cfg (Config): The study's config.
        data_root (str, optional): The user's own folder; nothing is made then.
    """
    root = cfg.train_dataloader.dataset.get('data_root')
    if data_root or not cfg.get('makes_digits') or Path(root).exists():
        return
    try:
        from ..digits import make_classification

        # This imports scikit-learn only when it is called.
        make_classification(root)
    except ImportError as error:
        raise InputError(
            f'{error.name}, which contains the digits, is missing: pip install '
            "'mmcdnv2[demo]', or set data_root to other data."
        ) from error


def check_data_sets(
    cfg: Config, loaders: Sequence[str], known: Dict[str, DataSet]
) -> List[DataSet]:
    """Check a config's data sets and return their sizes.

    Args:
        cfg (Config): Config of a classifier.
        loaders (Sequence[str]): Names of its data loaders.
        known (dict[str, DataSet]): Data sets checked before; extended.

    Returns:
        list[DataSet]: One per loader.

    Raises:
        ConfigError: If data is missing or the classes do not match the head.
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
        # Data sets of other packages may raise anything.
        raise ConfigError(
            f'the data of {loader} in {root} cannot be loaded: {in_one_line(error)}'
        ) from error
    if not images or not classes:
        raise ConfigError(
            f'the data of {loader} in {root} has {classes} classes and {images} '
            'images: expected a folder of images for each class.'
        )
    return DataSet(images, classes, shape)


def count_bytes(cfg: Config, loaders: Sequence[str]) -> int:
    """Return the size of all files in the data folders of a config's loaders."""
    roots = {
        part['data_root']
        for loader in loaders
        for part in typed_dicts(cfg[loader].dataset)
        if part.get('data_root')
    }
    files = [path for root in roots for path in Path(root).rglob('*')]
    return sum(path.stat().st_size for path in files if path.is_file())
