"""From a config to a runner, for training and testing alike."""

import copy
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Type, Union

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import master_only
from mmengine.evaluator import Evaluator
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint import (
    check_finite,
    check_state_dict,
    check_types,
    load_checkpoint,
    load_weights,
    unwrap_model,
    weights_of,
)
from ..datasets.coco import renumber_annotations
from ..errors import ConfigError, InputError
from ..machine import usable_cores
from .data_checks import check_data, check_heads, is_first_of_machine
from .distributed import join_processes
from .resume import prepare_resume

__all__ = [
    'ExactRunner',
    'TrainingRunner',
    'build_runner',
    'check_data',
]


class ExactRunner(Runner):
    """A runner that loads only weights that fit its model exactly.

    MMEngine's own goes on with random weights where names or shapes differ.

    Attributes:
        trust_checkpoint (bool): Whether a checkpoint may hold more than
            tensors and plain data. Defaults to False.
    """

    trust_checkpoint = False

    @staticmethod
    def build_dataloader(
        dataloader: Union[DataLoader, Dict[str, Any]], *args, **kwargs
    ) -> DataLoader:
        """Build a data loader with settings that this machine can use.

        Args:
            dataloader (DataLoader | dict): Its config. Worker processes are at most
                as many as cores that may be used, and memory is pinned only for an
                accelerator. One that is built already is returned as it is.
            *args: As for MMEngine's runner.
            **kwargs: As for MMEngine's runner.

        Returns:
            DataLoader: The data loader.
        """
        if isinstance(dataloader, dict):
            dataloader = copy.copy(dataloader)
            cores = usable_cores()
            if dataloader.get('num_workers', 0) > cores:
                print_log(
                    f'{cores} worker processes load data instead of '
                    f'{dataloader["num_workers"]}, as this process may use {cores} '
                    'cores.',
                    logger='current',
                )
                dataloader['num_workers'] = cores
            if get_device() == 'cpu':
                dataloader['pin_memory'] = False
        return Runner.build_dataloader(dataloader, *args, **kwargs)

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
        load_weights(self.model, checkpoint['state_dict'], filename)
        check_finite(unwrap_model(self.model).state_dict(), filename)
        return checkpoint

    def build_evaluator(self, evaluator: Union[Dict, List, Evaluator]) -> Evaluator:
        """Build an evaluator whose COCO metrics have no annotation of the id 0.

        Args:
            evaluator (dict | list | Evaluator): As for MMEngine's runner.

        Returns:
            Evaluator: It.
        """
        built = super().build_evaluator(evaluator)
        for metric in built.metrics:
            api = getattr(metric, '_coco_api', None)
            if api is not None and renumber_annotations(api):
                print_log(
                    'Annotation ids are numbered from 1 for the evaluation, as '
                    'pycocotools takes the id 0 for no match.',
                    logger='current',
                )
        return built


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
    skip_data_check: bool = False,
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
        skip_data_check (bool): Whether the data is not looked at. Of several
            processes on a machine only the first one does. Defaults to False.
        runner_type (type): Class of the runner. Defaults to that for trainings.

    Returns:
        ExactRunner: Ready to train or test.

    Raises:
        ConfigError: If data that the config names is missing or wrong, or a
            training cannot be resumed from its checkpoint.
        InputError: If the checkpoint cannot be used.
    """
    if not skip_data_check and is_first_of_machine(launcher):
        for loader in loaders:
            check_data(cfg, loader)
    # A config that is from no file has no name.
    name = Path(cfg.filename or 'unnamed').stem
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{name}'
    content = prepare_resume(cfg, trust_checkpoint)
    cfg.launcher = launcher
    join_processes(cfg, launcher)
    runner = runner_type.from_cfg(cfg)
    runner.trust_checkpoint = trust_checkpoint
    if not skip_data_check:
        check_heads(unwrap_model(runner.model), cfg, loaders)
    if content is not None and isinstance(runner, TrainingRunner):
        _check_weights(runner.model, content, cfg.load_from, cfg.get('resume'))
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


def _check_weights(
    model: nn.Module, content: Dict[str, Any], path: str, resume: Optional[bool]
) -> None:
    """Refuse weights that MMEngine would leave out, as it goes on without them."""
    weights = weights_of(content)
    check_state_dict(weights, path)
    check_finite(weights, path)
    if resume:
        load_weights(model, weights, path)
        return
    model = unwrap_model(model)
    check_types(model, weights, path)
    shapes = {name: getattr(each, 'shape', None) for name, each in weights.items()}
    if not any(shapes.get(name) == p.shape for name, p in model.named_parameters()):
        raise ConfigError(
            f'{path} does not hold the weights of this network: none of them fits, '
            'so the training would start from random ones.'
        )
