"""A look at the statistics of batch norms, which condensing takes over as they are."""

import logging
from pathlib import Path
from typing import Union

from mmengine.logging import print_log
from torch import nn

from ..errors import InputError

_BatchNorm = nn.modules.batchnorm._BatchNorm


def check_norms(model: nn.Module, source: Union[str, Path]) -> None:
    """Refuse variances that no training gives, and say which are zero.

    Args:
        model (nn.Module): A network with its weights.
        source (str | Path): Where they come from, for the message.

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
                f'{source} is bad: the running variance of {name} is negative '
                f'in {bad} of {variance.numel()} channels, which no training gives; '
                'use an earlier checkpoint or train again.'
            )
        if count := int((variance == 0).sum()):
            zeros.append(f'{name} ({count} of {variance.numel()})')
    if zeros:
        print_log(
            f'The running variance is zero in channels of {", ".join(zeros)}: they had '
            'one value in all of the training, and now any other is multiplied by '
            '1 / sqrt(eps). Check that the training went well.',
            logger='current',
            level=logging.WARNING,
        )
