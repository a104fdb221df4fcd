"""From a config to a runner, for training and testing alike."""

from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Type

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..checkpoint import load_checkpoint, load_weights, weights_of
from ..errors import ConfigError
from .data_checks import check_data, is_first_of_machine

__all__ = ['ExactRunner', 'build_runner', 'check_data', 'unwrap_model']


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


def build_runner(
    cfg: Config,
    loaders: Tuple[str, ...],
    *,
    work_dir: Optional[str] = None,
    launcher: str = 'none',
    trust_checkpoint: bool = False,
    skip_data_check: bool = False,
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
        skip_data_check (bool): Whether the data is not looked at. Of several
            processes on a machine only the first one does. Defaults to False.
        runner_type (type): Class of the runner. Defaults to MMEngine's.

    Returns:
        Runner: Ready to train or test.

    Raises:
        ConfigError: If data that the config names is missing or wrong, or a
            training cannot be resumed from its checkpoint.
        InputError: If the checkpoint cannot be used.
    """
    if not skip_data_check and is_first_of_machine(launcher):
        for loader in loaders:
            check_data(cfg, loader)
    path = cfg.get('load_from')
    if path and '://' not in path:
        content = load_checkpoint(path, trust_checkpoint)
        if cfg.get('resume') and 'iter' not in content.get('meta', {}):
            raise ConfigError(
                f'{path} holds weights only, so no training can be resumed from it: '
                'to start from these weights, set load_from without resume.'
            )
    cfg.launcher = launcher
    # A config that is from no file has no name.
    name = Path(cfg.filename or 'unnamed').stem
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{name}'
    runner = runner_type.from_cfg(cfg)
    if isinstance(runner, ExactRunner):
        runner.trust_checkpoint = trust_checkpoint
    return runner
