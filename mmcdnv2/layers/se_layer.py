"""Squeeze-and-excite with a norm layer, as ShuffleNetV2+ has it."""

from typing import Optional

from mmcv.cnn import ConvModule
from mmpretrain.models.utils import SELayer
from torch import nn


class NormedSELayer(SELayer):
    """mmpretrain's squeeze-and-excite, squeezed features normalised.

    The excitation is a hard sigmoid.

    Args:
        channels (int): Number of channels.
        ratio (int): Reduction of the squeeze. Defaults to 4.
        norm_cfg (dict, optional): Config of the norm layer. Defaults to
            ``dict(type='BN')``.
    """

    def __init__(
        self, channels: int, ratio: int = 4, norm_cfg: Optional[dict] = None
    ) -> None:
        squeezed = channels // ratio
        super().__init__(
            channels,
            squeezed,
            bias=False,
            act_cfg=(dict(type='ReLU'), dict(type=nn.Hardsigmoid)),
        )
        self.conv1 = ConvModule(
            channels, squeezed, 1, bias=False, norm_cfg=norm_cfg or dict(type='BN')
        )
