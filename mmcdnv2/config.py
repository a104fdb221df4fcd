"""Reading configs."""

import os
from typing import Any, Dict, Iterator, Optional

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


def type_of(part: Dict) -> str:
    """Name of a config part's type, without scope or module.

    Args:
        part (dict): With a name or, in new-style configs, a class as ``type``.

    Returns:
        str: For example 'EMAHook'.
    """
    kind = part['type']
    return kind.rsplit('.', 1)[-1] if isinstance(kind, str) else kind.__name__
