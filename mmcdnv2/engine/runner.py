"""From a config file to a runner, for training and testing alike."""

import os
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

from mmengine.config import Config
from mmengine.runner import Runner

from ..errors import InputError


def load_config(path: str, options: Optional[Dict] = None) -> Config:
    """Read a config file.

    Args:
        path (str): Path of the config file.
        options (dict, optional): Settings to override, with dotted keys.

    Returns:
        Config: The merged config.

    Raises:
        InputError: If the file does not exist.
    """
    if not os.path.isfile(path):
        raise InputError(f'There is no config file {path}.')
    cfg = Config.fromfile(path)
    if options:
        cfg.merge_from_dict(options)
    return cfg


def build_runner(
    cfg: Config,
    source: str,
    loaders: tuple,
    work_dir: Optional[str] = None,
    launcher: str = 'none',
    local_rank: int = 0,
) -> Runner:
    """Build the runner of a config, after a look whether its data is there.

    Args:
        cfg (Config): The config; ``work_dir`` and ``launcher`` are filled in.
        source (str): Path of the config file, which names the default
            ``work_dir``: ``work_dirs/CONFIG_NAME``.
        loaders (tuple[str]): Names of the data loaders that will be used.
        work_dir (str, optional): Folder for logs and checkpoints.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
        local_rank (int): Used where the environment does not tell.

    Returns:
        Runner: Ready to train or test.

    Raises:
        InputError: If data or a checkpoint that the config names is missing.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    for loader in loaders:
        check_data(cfg, loader)
    checkpoints = [cfg.get('load_from')]
    if 'train_dataloader' in loaders:
        parts = typed_dicts(cfg.model)
        checkpoints += [p['checkpoint'] for p in parts if p['type'] == 'Pretrained']
    for path in checkpoints:
        if path and '://' not in path and not os.path.isfile(path):
            raise InputError(f'There is no checkpoint {path}.')
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(source).stem}'
    return Runner.from_cfg(cfg)


def typed_dicts(node: Any) -> Iterator[Dict]:
    """Find the parts of a config that name a type.

    Args:
        node (Any): A config or a part of one.

    Yields:
        dict: Every dict with a string as its ``type``, at any depth.
    """
    if isinstance(node, dict):
        if isinstance(node.get('type'), str):
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from typed_dicts(child)


def check_data(cfg: Config, loader: str) -> None:
    """Check that the local files of a data loader's data sets exist.

    Args:
        cfg (Config): A config.
        loader (str): Name of the data loader, for example
            'train_dataloader'.

    Raises:
        InputError: If an annotation file or an image folder is missing.
    """
    for dataset in _datasets((cfg.get(loader) or {}).get('dataset') or {}):
        root = dataset.get('data_root') or ''
        prefix = dataset.get('data_prefix') or ''
        if dataset.get('split'):
            # ImageNet-like data sets derive their folder from the split.
            prefix = prefix or dataset['split']
        prefixes = prefix.values() if isinstance(prefix, dict) else [prefix]
        for part in (*prefixes, dataset.get('ann_file') or ''):
            path = os.path.join(root, part)
            if not part or '://' in path or os.path.exists(path):
                continue
            raise InputError(
                f'{loader} expects its data in {path}, which does not exist: put it '
                f'there or set {loader}.dataset.data_root (and '
                'ann_file, data_prefix) with --cfg-options.'
            )


def _datasets(dataset: Dict) -> Iterator[Dict]:
    """Yield the data sets inside wrappers such as RepeatDataset."""
    inner = dataset.get('datasets') or [dataset.get('dataset')]
    if any(inner):
        for each in inner:
            yield from _datasets(each)
    elif 'data_root' in dataset or 'ann_file' in dataset:
        yield dataset
