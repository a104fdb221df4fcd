"""From a config file to a runner, for training and testing alike."""

import os
from pathlib import Path
from typing import Dict, Iterator, Optional

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..checkpoint import load_checkpoint
from ..config import type_of
from ..errors import InputError


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside a distributed wrapper, or the model itself."""
    return model.module if is_model_wrapper(model) else model


def build_runner(
    cfg: Config,
    source: str,
    loaders: tuple,
    work_dir: Optional[str] = None,
    launcher: str = 'none',
    local_rank: int = 0,
    trust: bool = False,
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
        trust (bool): Whether ``load_from`` may hold more than tensors.

    Returns:
        Runner: Ready to train or test.

    Raises:
        InputError: If data that the config names is missing, or its
            checkpoint cannot be used.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    for loader in loaders:
        check_data(cfg, loader)
    path = cfg.get('load_from')
    if path and '://' not in path:
        content = load_checkpoint(path, trust)
        if cfg.get('resume') and 'iter' not in content.get('meta', {}):
            raise InputError(
                f'{path} holds weights only, so no training can be resumed from it: '
                'load it with --cfg-options load_from instead.'
            )
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(source).stem}'
    return Runner.from_cfg(cfg)


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
        if type_of(dataset) == 'ImageNet':
            # It finds its folder by the split where no prefix is given.
            prefix = prefix or dataset.get('split', '')
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
