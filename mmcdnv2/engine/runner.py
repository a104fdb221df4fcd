"""From a config to a runner, for training and testing alike."""

import logging
import os
import re
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Type

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner, find_latest_checkpoint
from torch import nn

from ..checkpoint import (
    check_finite,
    check_state_dict,
    check_types,
    load_checkpoint,
    load_weights,
    weights_of,
)
from ..config import type_of, typed_dicts
from ..errors import ConfigError, UntrustedError

# mmpretrain's data sets that, without annotations, list the images in a folder.
LISTING_DATASETS = ('CustomDataset', 'ImageNet', 'ImageNet21k')


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside a distributed wrapper, or the model itself."""
    return model.module if is_model_wrapper(model) else model


class ExactRunner(Runner):
    """A runner that loads only weights that fit its model exactly.

    MMEngine's own goes on with random weights where names or shapes differ.

    Attributes:
        trust_checkpoint (bool): Whether a checkpoint may hold more than
            tensors and plain data. Defaults to False.
    """

    trust_checkpoint = False

    def load_checkpoint(self, filename: str, **kwargs) -> Dict[str, Any]:
        """Load a checkpoint after the hooks have seen it.

        Args:
            filename (str): Path of the file.
            **kwargs: What MMEngine's method takes beside is fixed here.

        Returns:
            dict: The checkpoint, as the hooks left it.

        Raises:
            InputError: If it cannot be used or does not fit the model.
        """
        content = load_checkpoint(filename, self.trust_checkpoint)
        # Hooks expect a state dict in it, which a file of weights alone is itself.
        checkpoint = dict(content, state_dict=weights_of(content))
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        load_weights(unwrap_model(self.model), checkpoint['state_dict'], filename)
        check_finite(unwrap_model(self.model).state_dict(), filename)
        return checkpoint


def build_runner(
    cfg: Config,
    loaders: Tuple[str, ...],
    *,
    work_dir: Optional[str] = None,
    launcher: str = 'none',
    trust_checkpoint: bool = False,
    runner_type: Type[Runner] = Runner,
) -> Runner:
    """Build the runner of a config, after a look at its data and checkpoint.

    Args:
        cfg (Config): The config; its ``work_dir`` and ``launcher`` are filled in.
        loaders (tuple[str]): Names of the data loaders that will be used.
        work_dir (str, optional): Folder for logs and results. Defaults to the
            config's or, if it has none, to ``work_dirs/CONFIG_NAME``.
        launcher (str): What started the processes: 'none', 'pytorch', 'slurm'
            or 'mpi'. Defaults to 'none'.
        trust_checkpoint (bool): Whether the config's checkpoint may hold more
            than tensors and plain data. Defaults to False.
        runner_type (type): Class of the runner. Defaults to MMEngine's.

    Returns:
        Runner: Ready to train or test.

    Raises:
        ConfigError: If data that the config names is missing, or a training
            cannot be resumed from its checkpoint.
        InputError: If the checkpoint cannot be used.
    """
    for loader in loaders:
        check_data(cfg, loader)
    cfg.launcher = launcher
    # A config that is from no file has no name.
    name = Path(cfg.filename or 'unnamed').stem
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{name}'
    resume = bool(cfg.get('resume'))
    path: str = cfg.get('load_from') or ''
    if resume and not path:
        path = _latest_checkpoint(cfg.work_dir)
    content = None
    if path and '://' not in path:
        # MMEngine's own loader would run what code a file holds.
        content = load_checkpoint(path, trust_checkpoint)
        if resume:
            _check_resumable(content, path, trust_checkpoint)
    runner = runner_type.from_cfg(cfg)
    if isinstance(runner, ExactRunner):
        runner.trust_checkpoint = trust_checkpoint
    elif content is not None:
        _check_weights(unwrap_model(runner.model), content, path, resume)
    return runner


def _latest_checkpoint(work_dir: str) -> str:
    """Find what MMEngine will resume from if it is told nothing else."""
    try:
        return find_latest_checkpoint(work_dir) or ''
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f'{work_dir}/last_checkpoint cannot be read: name the checkpoint to '
            'resume from.'
        ) from error


def _check_resumable(content: Dict[str, Any], path: str, trust: bool) -> None:
    """Refuse a checkpoint that MMEngine cannot go on from."""
    meta = content.get('meta') or {}
    if 'iter' not in meta:
        raise ConfigError(
            f'{path} holds weights only, so no training can be resumed from it: '
            'to start from these weights, set load_from without resume.'
        )
    # MMEngine has it run, to compare the number of GPUs.
    if 'config' in meta and not trust:
        raise UntrustedError(
            f'{path} holds a config, which is code that is run when it is resumed '
            'from: if you trust where it comes from, set trust_checkpoint=True.'
        )
    counts = [meta.get(key) for key in ('iter', 'epoch')]
    hub = content.get('message_hub')
    if not isinstance(hub, dict) or not all(
        type(count) is int and count >= 0 for count in counts
    ):
        raise ConfigError(
            f'{path} does not say how far its training has come, so it cannot be '
            'resumed: to start from its weights, set load_from without resume.'
        )


def _check_weights(
    model: nn.Module, content: Dict[str, Any], path: str, resume: bool
) -> None:
    """Refuse weights that MMEngine would leave out, as it goes on without them."""
    weights = weights_of(content)
    check_state_dict(weights, path)
    check_finite(weights, path)
    # As MMEngine does.
    weights = {re.sub(r'^module\.', '', name): each for name, each in weights.items()}
    if resume:
        load_weights(model, weights, path)
        return
    check_types(model, weights, path)
    shapes = {name: getattr(each, 'shape', None) for name, each in weights.items()}
    if not any(shapes.get(name) == p.shape for name, p in model.named_parameters()):
        raise ConfigError(
            f'{path} does not hold the weights of this network: none of them fits, '
            'so the training would start from random ones.'
        )


def check_data(cfg: Config, loader: str) -> None:
    """Check that the local files that a data loader is sure to read exist.

    That is every annotation file or, where there is none, the folder whose
    images mmpretrain would list. A missing folder of annotated images is only
    warned of, as annotations may name whole paths. Nothing is checked where
    the files are read by a storage backend.

    Args:
        cfg (Config): A config.
        loader (str): Name of the data loader, for example
            'train_dataloader'.

    Raises:
        ConfigError: If such a file or folder is missing.
    """
    parts = list(typed_dicts((cfg.get(loader) or {}).get('dataset')))
    if any(part.get('backend_args') or part.get('file_client_args') for part in parts):
        return
    for dataset in parts:
        root = dataset.get('data_root') or ''
        annotations, images = _annotations_and_images(dataset, root)
        lists_images = not annotations and type_of(dataset) in LISTING_DATASETS
        if path := _missing(root, images if lists_images else annotations):
            raise ConfigError(
                f'{loader} expects its data in {path}, which does not exist: put it '
                f'there or set {loader}.dataset.data_root (and ann_file, data_prefix).'
            )
        if images and (path := _missing(root, images)):
            print_log(
                f'{loader} expects its images in {path}, which does not exist: unless '
                'the annotations name whole paths, the images will not be found.',
                logger='current',
                level=logging.WARNING,
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
