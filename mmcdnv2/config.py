"""Reading configs."""

import os
from typing import Any, Dict, Iterator, List, Optional

from mmengine.config import Config

from .errors import InputError


def load_config(path: str, options: Optional[Dict] = None) -> Config:
    """Read a config file.

    Args:
        path (str): Path of the config file.
        options (dict, optional): Settings to override, with dotted keys.

    Returns:
        Config: The merged config.

    Raises:
        InputError: If the file does not exist or cannot be read.
    """
    if not os.path.isfile(path):
        raise InputError(f'There is no config file {path}.')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        # A config is Python: nothing limits what reading it may raise.
        raise InputError(
            f'{path} cannot be read as a config: {type(error).__name__}: {error}'
        ) from error
    if options:
        cfg.merge_from_dict(options)
    return cfg


def typed_dicts(node: Any) -> Iterator[Dict]:
    """Find the parts of a config that name a type.

    Args:
        node (Any): A config or a part of one.

    Yields:
        dict: Every dict with a name or a class as its ``type``, at any depth.
    """
    if isinstance(node, dict):
        if isinstance(node.get('type'), (str, type)):
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from typed_dicts(child)


def unwrapped_datasets(dataset: Any) -> List[Dict]:
    """Return the data sets inside wrappers, whatever the wrappers are.

    Args:
        dataset (dict, optional): Config of a data set, or of a wrapper: its ``dataset``
            or its list of ``datasets`` is what it wraps, at any depth.

    Returns:
        list[dict]: Configs of data sets, in order. A wrapper's own ``pipeline`` is
        appended to theirs, since it is applied to what they return.
    """
    if not dataset:
        return []
    inner = dataset.get('datasets') or dataset.get('dataset')
    if not isinstance(inner, (dict, list, tuple)):
        return [dataset]
    inner = [inner] if isinstance(inner, dict) else inner
    found = [part for each in inner for part in unwrapped_datasets(each)]
    own = dataset.get('pipeline')
    if not own:
        return found
    return [
        dict(part, pipeline=[*(part.get('pipeline') or ()), *own]) for part in found
    ]


def tested_datasets(cfg: Config) -> List[Dict]:
    """Return the data sets that a config tests on, without their wrappers.

    Args:
        cfg (Config): Of a classifier or a detector.

    Returns:
        list[dict]: As :func:`unwrapped_datasets`.
    """
    return unwrapped_datasets((cfg.get('test_dataloader') or {}).get('dataset'))


def type_of(part: Dict) -> str:
    """Name of a config part's type, without scope or module.

    Args:
        part (dict): With a name or, in new-style configs, a class as ``type``.

    Returns:
        str: For example 'EMAHook'.
    """
    kind = part['type']
    return kind.rsplit('.', 1)[-1] if isinstance(kind, str) else kind.__name__
