"""ShuffleNetV2+, with and without sparse feature reactivation."""

from typing import Optional, Sequence, Tuple, Union

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, Sequential
from torch import Tensor

from ..errors import InputError
from ..layers import NormedSELayer, SFRModule
from ..registry import register_model
from .base import BlockBackbone, RecomputedMixin

_WIDTHS = dict(
    small=(36, 104, 208, 416), medium=(48, 128, 256, 512), large=(68, 168, 336, 672)
)
# Kernel size of each unit of each stage; 'x': three separable 3x3 convolutions.
_KERNELS: Tuple[Tuple[Union[int, str], ...], ...] = (
    (3, 3, 'x', 5),
    (5, 5, 3, 3),
    (7, 3, 7, 5, 5, 3, 7, 3),
    (7, 5, 'x', 7),
)


class PlusUnit(RecomputedMixin, BaseModule):
    """Unit of ShuffleNetV2+.

    With stride 1, half of the channels bypass the branch; with stride 2, all go
    through both the branch and a projection. With a sparse factor, the branch
    reactivates the bypassing half.

    Args:
        in_channels (int): Number of input channels.
        out_channels (int): Number of output channels; with stride 1 equal to
            ``in_channels`` and even.
        kernel (int | str): Kernel size, or 'x' for three separable 3x3
            convolutions.
        stride (int): 1 or 2.
        use_se (bool): Whether the branch ends with squeeze-and-excite.
        groups (int): See :class:`~mmcdnv2.layers.SFR`.
        sparse_factor (int, optional): See :class:`~mmcdnv2.layers.SFR`. None
            for no reactivation.
        norm_cfg (dict): Config of the norm layers.
        act_cfg (dict): Config of the activation layers.
        with_cp (bool): Whether to recompute the unit in the backward pass.
        deploy (bool): Whether to build the condensed form.
        sfr_init (str): See :class:`~mmcdnv2.layers.SFRModule`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Union[int, str],
        stride: int,
        use_se: bool,
        groups: int,
        sparse_factor: Optional[int],
        norm_cfg: dict,
        act_cfg: dict,
        with_cp: bool,
        deploy: bool,
        sfr_init: str,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.with_cp = with_cp
        old_channels = in_channels if stride == 2 else in_channels // 2
        width = out_channels // 2
        new_channels = out_channels - old_channels
        size = kernel if isinstance(kernel, int) else 3

        def pointwise(inputs: int, outputs: int) -> ConvModule:
            return ConvModule(inputs, outputs, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)

        def depthwise(channels: int, stride: int) -> ConvModule:
            return ConvModule(
                channels,
                channels,
                size,
                stride,
                size // 2,
                groups=channels,
                norm_cfg=norm_cfg,
                act_cfg=None,
            )

        if kernel == 'x':
            branch = [
                depthwise(old_channels, stride),
                pointwise(old_channels, width),
                depthwise(width, 1),
                pointwise(width, width),
                depthwise(width, 1),
                pointwise(width, new_channels),
            ]
        else:
            branch = [
                pointwise(old_channels, width),
                depthwise(width, stride),
                pointwise(width, new_channels),
            ]
        if use_se:
            branch.append(NormedSELayer(new_channels, norm_cfg=norm_cfg))
        self.branch = Sequential(*branch)
        self.projection = self.sfr = None
        if stride == 2:
            self.projection = Sequential(
                depthwise(old_channels, 2), pointwise(old_channels, old_channels)
            )
        elif sparse_factor is not None:
            self.sfr = SFRModule(
                new_channels,
                old_channels,
                groups=groups,
                sparse_factor=sparse_factor,
                norm_cfg=norm_cfg,
                act_cfg=act_cfg,
                deploy=deploy,
                sfr_init=sfr_init,
            )

    def _forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / s, W / s)."""
        if self.projection is not None:
            return torch.cat([self.projection(x), self.branch(x)], dim=1)
        old, new = x[:, ::2], self.branch(x[:, 1::2])
        if self.sfr is not None:
            old = self.sfr(old, new)
        return torch.cat([old, new], dim=1)


@register_model
class ShuffleNetV2Plus(BlockBackbone):
    """ShuffleNetV2+ backbone; with a sparse factor, SFR-ShuffleNetV2+.

    Megvii's `ShuffleNetV2+
    <https://github.com/megvii-model/ShuffleNet-Series>`_. For the reactivation
    in its units of stride 1 (paper, Sec. 4) see :class:`SFRShuffleNetV2`.

    Args:
        arch (str): 'small', 'medium' or 'large'. Defaults to 'small'.
        sparse_factor (int, optional): See :class:`~mmcdnv2.layers.SFR`; 8 gives
            the paper's FLOPs. Defaults to None, no reactivation.
        groups (int): Groups of the reactivations, each reduced to the next divisor
            of its channels. Defaults to 8.
        in_channels (int): Channels of the input image. Defaults to 3.
        out_indices (int | Sequence[int]): Stages whose outputs are returned;
            strides 4, 8, 16 and 32 for 0 to 3, 4 for the final 1x1
            convolution. Negative numbers count from the last one. Stages after
            the last returned one are neither run nor trained. Defaults to (-1, ).
        frozen_stages (int): 0 freezes the stem, n the stem and the first n
            stages; -1 freezes nothing. Defaults to -1.
        norm_eval (bool): Whether norm layers use their running statistics in
            training. Defaults to False.
        with_cp (bool): Whether to recompute each unit in the backward pass,
            which saves memory and costs time. Defaults to False.
        deploy (bool): Whether to build the condensed form. Defaults to False.
        norm_cfg (dict): Config of the norm layers. Defaults to
            ``dict(type='BN')``.
        init_cfg (dict, optional): Initialisation config. By default, convolutions
            are Kaiming normal with fan-out and norm weights are 1, except for the
            reactivations.
        sfr_init (str): Initialisation of the reactivations, 'identity' or
            'released'; see :class:`~mmcdnv2.layers.SFRModule`. Defaults to
            'identity'.

    Raises:
        InputError: If the arch or ``sfr_init`` is unknown, or an index or
            ``frozen_stages`` is out of range.
    """

    def __init__(
        self,
        arch: str = 'small',
        sparse_factor: Optional[int] = None,
        groups: int = 8,
        in_channels: int = 3,
        out_indices: Union[int, Sequence[int]] = (-1,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        norm_cfg: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
        sfr_init: str = 'identity',
    ) -> None:
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        if arch not in _WIDTHS:
            raise InputError(f'Unknown arch {arch!r}: choose from {sorted(_WIDTHS)}.')
        norm_cfg = norm_cfg or dict(type='BN')
        hswish = dict(type='HSwish')
        channels = 16
        stem = ConvModule(
            in_channels,
            channels,
            3,
            stride=2,
            padding=1,
            norm_cfg=norm_cfg,
            act_cfg=hswish,
        )
        blocks, out_channels = [], []
        for i, (width, kernels) in enumerate(zip(_WIDTHS[arch], _KERNELS)):
            units = []
            for j, kernel in enumerate(kernels):
                units.append(
                    PlusUnit(
                        width if j else channels,
                        width,
                        kernel,
                        stride=1 if j else 2,
                        use_se=i >= 2,
                        groups=groups,
                        sparse_factor=sparse_factor,
                        norm_cfg=norm_cfg,
                        act_cfg=hswish if i else dict(type='ReLU'),
                        with_cp=with_cp,
                        deploy=deploy,
                        sfr_init=sfr_init,
                    )
                )
            channels = width
            blocks.append(Sequential(*units))
            out_channels.append(channels)
        blocks.append(ConvModule(channels, 1280, 1, norm_cfg=norm_cfg, act_cfg=hswish))
        self._assemble(stem, blocks, [*out_channels, 1280])
