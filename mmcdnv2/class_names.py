"""What a model's classes are called."""

import os
from typing import Any, Dict, Iterator, Optional, Tuple

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS
from torch import nn

from .config import tested_datasets


def class_names(
    cfg: Config, content: Dict[str, Any], number: Optional[int] = None
) -> Tuple[str, ...]:
    """Find the names of the classes: in the checkpoint, or by the config's data set.

    No data set is built, so none of its files must be there.

    Args:
        cfg (Config): The model's.
        content (dict): Of its checkpoint.
        number (int, optional): How many classes the model tells from each other, see
            :func:`number_of_classes`. Names that are more or fewer are those of other
            data. Defaults to any number.

    Returns:
        tuple[str]: The names, none where they are unknown.
    """
    for given in _given(cfg, content):
        names = _listed(given)
        if names and number in (None, len(names)):
            return names
    return ()


def number_of_classes(model: nn.Module) -> Optional[int]:
    """Return how many classes a classifier or detector has, None if it is unknown."""
    owner = getattr(model, 'roi_head', model)
    head = getattr(owner, 'bbox_head', None) or getattr(owner, 'head', None)
    # One after the other, as in Cascade R-CNN.
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    return getattr(head, 'num_classes', None)


def _given(cfg: Config, content: Dict[str, Any]) -> Iterator[Any]:
    """Give what may be names, the best first."""
    meta = content.get('meta') or {}
    for part in (meta.get('dataset_meta') or {}, meta):
        # Earlier versions wrote CLASSES.
        yield {key.lower(): value for key, value in part.items()}.get('classes')
    for dataset in tested_datasets(cfg):
        # MMPreTrain's data sets take the names as an argument of their own, too.
        own = (dataset.get('metainfo') or {}).get('classes') or dataset.get('classes')
        yield own or (_metainfo_of(dataset.get('type'), cfg) or {}).get('classes')


def _metainfo_of(kind: Any, cfg: Config) -> Any:
    """Return what the class of a data set knows of the data."""
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            try:
                kind = registry.get(kind)
            except (KeyError, RuntimeError):
                # What it is called in a project that is not imported.
                kind = None
    return getattr(kind, 'METAINFO', None)


def _listed(given: Any) -> Tuple[str, ...]:
    """Return names as a tuple; those in a file of one name a line are read."""
    if isinstance(given, str):
        path = os.path.expanduser(given)
        if os.path.isfile(path):
            return tuple(list_from_file(path))
        # A file that is not here, or the only class.
        return () if path.endswith('.txt') else (given,)
    return () if given is None else tuple(map(str, given))
