"""The hook that lays a network's weights out channels last."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import register_hook


@register_hook
class ChannelsLastHook(Hook):
    """Convert the model's weights to the channels-last memory format.

    The feature maps follow the weights. On a CPU that makes the convolutions
    of CondenseNetV2 faster in training.

    Note:
        mmcv's RoIAlign silently misreads channels-last feature maps: build
        it with ``use_torchvision=True``.

    Examples:
        >>> custom_hooks = [dict(type='ChannelsLastHook')]
    """

    def before_run(self, runner: Runner) -> None:
        """Convert before a checkpoint brings the optimizer's state."""
        runner.model.to(memory_format=torch.channels_last)
