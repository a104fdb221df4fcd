"""From a config to a runner, for training and testing alike."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Type

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..checkpoint import load_checkpoint, load_weights, weights_of
from ..config import type_of, typed_dicts
from ..errors import ConfigError, InputError
from .distributed import join_processes
from .resume import prepare_resume

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
        return checkpoint


class TrainingRunner(ExactRunner):
    """A runner whose checkpoints are whole, and which resumes only what fits.

    As MMEngine's own it may start from weights that fit in part (``load_from``
    without ``resume``), such as those of a detector of other classes.
    """

    def load_checkpoint(self, filename: str, **kwargs) -> Dict[str, Any]:
        """Load a checkpoint, exactly if a training is resumed from it.

        Args:
            filename (str): Path of the file.
            **kwargs: Passed on where the training is not resumed.

        Returns:
            dict: The checkpoint, as the hooks left it.

        Raises:
            InputError: If the training is resumed and the checkpoint does not fit
                the model.
        """
        if self._resume:
            return super().load_checkpoint(filename)
        return Runner.load_checkpoint(self, filename, **kwargs)

    @master_only
    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: Optional[dict] = None,
        backend_args: Optional[dict] = None,
        **kwargs,
    ) -> None:
        """Save a checkpoint whole or not at all.

        MMEngine writes it under its name, where an earlier one may be. A local file
        is written under another name first.

        Args:
            out_dir (str): Folder of the checkpoint.
            filename (str): Its name.
            file_client_args (dict, optional): As for MMEngine's runner.
            backend_args (dict, optional): As for MMEngine's runner.
            **kwargs: As for MMEngine's runner.

        Raises:
            InputError: If it cannot be written.
        """
        storage = dict(file_client_args=file_client_args, backend_args=backend_args)
        backend = get_file_backend(out_dir, backend_args=backend_args)
        if file_client_args or not isinstance(backend, LocalBackend):
            super().save_checkpoint(out_dir, filename, **storage, **kwargs)
            return
        path = os.path.join(out_dir, filename)
        # One name for each checkpoint: a training that was killed leaves a part of
        # it, which the resumed one overwrites.
        partial = os.path.join(out_dir, f'.{filename}.partial')
        try:
            super().save_checkpoint(
                out_dir, os.path.basename(partial), **storage, **kwargs
            )
            os.replace(partial, path)
        except OSError as error:
            with suppress(OSError):
                os.remove(partial)
            raise InputError(
                f'{path} cannot be written ({error.strerror}): make room for it and '
                'resume the training; the checkpoints before it are as they were.'
            ) from error


def build_runner(
    cfg: Config,
    loaders: Tuple[str, ...],
    *,
    work_dir: Optional[str] = None,
    launcher: str = 'none',
    trust_checkpoint: bool = False,
    runner_type: Type[ExactRunner] = TrainingRunner,
) -> ExactRunner:
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
        runner_type (type): Class of the runner. Defaults to that for trainings.

    Returns:
        ExactRunner: Ready to train or test.

    Raises:
        ConfigError: If data that the config names is missing, or a training
            cannot be resumed from its checkpoint.
        InputError: If the checkpoint cannot be used.
    """
    for loader in loaders:
        check_data(cfg, loader)
    # A config that is from no file has no name.
    name = Path(cfg.filename or 'unnamed').stem
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{name}'
    prepare_resume(cfg, trust_checkpoint)
    cfg.launcher = launcher
    join_processes(cfg, launcher)
    runner = runner_type.from_cfg(cfg)
    runner.trust_checkpoint = trust_checkpoint
    saving = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if isinstance(runner, TrainingRunner) and saving.get('max_keep_ckpts') == 1:
        print_log(
            'MMEngine removes the only checkpoint before it writes the next: set '
            'max_keep_ckpts to 2 or more, or a training that is killed meanwhile '
            'starts from the beginning.',
            logger='current',
            level=logging.WARNING,
        )
    return runner


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
