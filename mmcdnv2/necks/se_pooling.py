"""Global average pooling with squeeze-and-excite."""

from typing import Tuple

from mmengine.model import BaseModule
from mmpretrain.models.utils import SELayer
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import InputError
from ..registry import register_model


@register_model
class SEGlobalAveragePooling(BaseModule):
    """Pool the last feature map, then squeeze and excite the vector.

    Stands between a CondenseNetV2 and its fully connected layers (paper,
    Sec. 3).

    Args:
        channels (int): Number of channels of the last feature map.
        ratio (int): Reduction of the squeeze. Defaults to 16.

    Raises:
        InputError: If ``ratio`` is larger than ``channels``.
    """

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        if not 1 <= ratio <= channels:
            raise InputError(f'ratio must be in [1, channels={channels}], got {ratio}.')
        self.se = SELayer(channels, squeeze_channels=channels // ratio, bias=False)

    def forward(self, feats: Tuple[Tensor, ...]) -> Tuple[Tensor]:
        """Map feature maps to a vector.

        Args:
            feats (tuple[Tensor]): The last one has shape (N, channels, H, W).

        Returns:
            tuple[Tensor]: One tensor of shape (N, channels).
        """
        pooled = adaptive_avg_pool2d(feats[-1], 1)
        return (self.se(pooled).flatten(1),)
