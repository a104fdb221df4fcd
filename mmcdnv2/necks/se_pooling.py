"""Global average pooling with squeeze-and-excite."""

from typing import Optional, Tuple

import torch
from mmengine.model import BaseModule
from mmpretrain.models.utils import SELayer
from torch import Tensor, nn

from ..errors import InputError
from ..layers import NormedSELayer
from ..layers.se_layer import add_se
from ..ops.kernel_arguments import KernelArguments, check_type
from ..ops.kernel_module import KernelMixin
from ..registry import register_model


@register_model
class SEGlobalAveragePooling(KernelMixin, BaseModule):
    """Pool the last feature map and apply squeeze-and-excite to the vector.

    Used between CondenseNetV2 (paper, Sec. 3) or ShuffleNetV2+ and the fully
    connected layers.

    Args:
        channels (int): Number of channels of the last feature map.
        ratio (int): Reduction of the squeeze. Defaults to 16.
        norm_cfg (dict, optional): Config of a norm layer after the squeezing
            convolution; the excitation is then a hard sigmoid, as in
            ShuffleNetV2+. Defaults to None, no norm and a sigmoid, as in
            CondenseNetV2.

    Raises:
        InputError: If ``ratio`` is larger than ``channels``.
    """

    _only_if_loaded = True

    def __init__(
        self, channels: int, ratio: int = 16, norm_cfg: Optional[dict] = None
    ) -> None:
        super().__init__()
        if not 1 <= ratio <= channels:
            raise InputError(f'ratio must be in [1, channels={channels}], got {ratio}.')
        self.pool = nn.AdaptiveAvgPool2d(1)
        if norm_cfg is None:
            self.se = SELayer(channels, squeeze_channels=channels // ratio, bias=False)
        else:
            self.se = NormedSELayer(channels, ratio, norm_cfg)

    def forward(self, feats: Tuple[Tensor, ...]) -> Tuple[Tensor]:
        """Map feature maps to a vector.

        Args:
            feats (tuple[Tensor]): The last one has shape (N, channels, H, W).

        Returns:
            tuple[Tensor]: One tensor of shape (N, channels).
        """
        x = feats[-1]
        args = self.kernel_args(x)
        if args is not None:
            return (torch.ops.mmcdnv2.pool_excite(x, *args),)
        return (self.se(self.pool(x)).flatten(1),)

    def _kernel_arguments(self) -> KernelArguments:
        check_type(self.pool, nn.AdaptiveAvgPool2d)
        arguments = KernelArguments()
        add_se(arguments, self.se)
        return arguments
