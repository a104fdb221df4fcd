"""Squeeze-and-excite: its kernel arguments, and ShuffleNetV2+'s variant."""

from typing import Optional

from mmcv.cnn import ConvModule
from mmpretrain.models.utils import SELayer
from torch import nn

from ..ops.kernel_arguments import (
    KernelArguments,
    UnsupportedError,
    check_type,
    replaces_forward,
)

replaces_forward(SELayer, nn.AdaptiveAvgPool2d)


def add_se(arguments: KernelArguments, se: nn.Module) -> None:
    """Add a squeeze-and-excite with ReLU and sigmoid to a kernel's arguments.

    Args:
        arguments (KernelArguments): Arguments of the pooling or of a block.
        se (nn.Module): The squeeze-and-excite.

    Raises:
        UnsupportedError: If the kernel does not implement this module.
    """
    check_type(se, SELayer)
    check_type(se.global_avgpool, nn.AdaptiveAvgPool2d)
    for part, act in ((se.conv1, nn.ReLU), (se.conv2, nn.Sigmoid)):
        check_type(part, ConvModule)
        if part.with_norm or part.order[0] != 'conv' or not part.with_activation:
            raise UnsupportedError(
                'its squeeze-and-excite has more than convolutions and activations'
            )
        check_type(part.conv, nn.Conv2d)
        check_type(part.activate, act)
        arguments.add_conv(part.conv, 1)
    if se.return_weight or se.global_avgpool.output_size != 1:
        raise UnsupportedError('its squeeze-and-excite does not gate its input')


class NormedSELayer(SELayer):
    """mmpretrain's squeeze-and-excite with a norm and a hard sigmoid.

    The norm follows the squeezing convolution.

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
