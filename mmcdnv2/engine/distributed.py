"""Training and testing on several processes where there is no GPU."""

import os
from datetime import timedelta

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from torch import distributed

from ..errors import InputError

# What torchrun sets for each process.
_VARIABLES = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
# Seconds, as PyTorch waits by default.
_TIMEOUT = 1800


def join_processes(cfg: Config, launcher: str) -> None:
    """Join the other processes of a job, if that is not left to MMEngine.

    MMEngine's launchers give each process a GPU. Without one the processes join
    here, by gloo, and the config's model wrapper is told to stay on the CPU.

    Args:
        cfg (Config): Changed in place.
        launcher (str): What started the processes: 'none', 'pytorch', 'slurm' or
            'mpi'.

    Raises:
        InputError: If the processes were not started as ``launcher`` says, or it
            is one that needs GPUs and there are none.
    """
    if launcher == 'pytorch':
        missing = [name for name in _VARIABLES if name not in os.environ]
        if missing:
            raise InputError(
                f'The launcher pytorch expects the variables of torchrun, and '
                f'{", ".join(missing)} are not set: start the processes by '
                'tools/dist_train.sh, tools/dist_test.sh or torchrun.'
            )
    if launcher == 'none' or get_device() != 'cpu':
        return
    if launcher != 'pytorch':
        raise InputError(
            f'The launcher {launcher} needs GPUs, and there is none here: on CPUs '
            'start the processes by torchrun with the launcher pytorch, under Slurm '
            'by srun torchrun.'
        )
    if not is_distributed():
        seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', _TIMEOUT)
        distributed.init_process_group('gloo', timeout=timedelta(seconds=seconds))
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
