"""Check batch norm statistics, which condensing copies unchanged."""

import logging
from pathlib import Path
from typing import Union

from mmengine.logging import print_log
from torch import nn

from ..errors import InputError

_BatchNorm = nn.modules.batchnorm._BatchNorm


def check_norms(model: nn.Module, source: Union[str, Path]) -> None:
    """Reject negative running variances and log a warning about zeros.

    Args:
        model (nn.Module): A network with its weights.
        source (str | Path): Source of the weights, for the message.

    Raises:
        InputError: If a running variance is negative.
    """
    zeros = []
    for name, norm in model.named_modules():
        if not isinstance(norm, _BatchNorm) or norm.running_var is None:
            continue
        variance = norm.running_var
        bad = int((variance < 0).sum())
        if bad:
            raise InputError(
                f'{source} is damaged: the running variance of {name} is negative '
                f'in {bad} of {variance.numel()} channels; use an earlier checkpoint '
                'or train again.'
            )
        if count := int((variance == 0).sum()):
            zeros.append(f'{name} ({count} of {variance.numel()})')
    if zeros:
        print_log(
            f'The running variance is zero in channels of {", ".join(zeros)}: these '
            'were constant during training, and other values are now multiplied by '
            '1 / sqrt(eps). Check the training run.',
            logger='current',
            level=logging.WARNING,
        )
