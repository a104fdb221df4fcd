"""The parts of CondenseNetV2: stem, dense layers and dense blocks."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, Sequential
from mmpretrain.models.utils import SELayer
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ..layers import CondensedLGC, OrderedConvModule, SFRModule
from ..layers.se_layer import add_se
from ..ops.kernel_arguments import (
    CONV_FIRST,
    NORM_FIRST,
    KernelArguments,
    UnsupportedError,
    check_conv_module,
    check_type,
    replaces_forward,
)
from ..ops.kernel_module import KernelMixin
from .base import RecomputedMixin


class DenseLayer(RecomputedMixin, BaseModule):
    """Compute new features from all earlier ones and reactivate the earlier ones.

    LGC (C -> bottleneck * k), 3x3 group convolution (-> k), optional
    squeeze-and-excite, then ``cat([x + SFR(new), new])`` (paper, Sec. 3) or,
    as in CondenseNet, ``cat([x, new])``. Norm and activation precede the LGC and
    the 3x3 convolution.

    Args:
        in_channels (int): Number of input channels, C.
        growth_rate (int): Number of new channels, k.
        groups (int): Groups of the LGC and the 3x3 convolution.
        condense_factor (int): See :class:`~mmcdnv2.layers.LGC`.
        sfr_groups (int): Groups of the reactivation.
        sparse_factor (int, optional): See :class:`~mmcdnv2.layers.SFR`. None
            for no reactivation.
        sfr_order (Sequence[str]): Order of the reactivation's convolution,
            norm and activation.
        bottleneck (int): Number of the LGC's output channels in growth rates.
        use_se (bool): Whether to apply squeeze-and-excite to the new features.
        norm_cfg (dict): Config of the norm layers.
        act_cfg (dict): Config of the activation layers.
        with_cp (bool): Whether to recompute the layer in the backward pass.
        deploy (bool): Whether to build the condensed form.
        sfr_init (str): See :class:`~mmcdnv2.layers.SFRModule`.
    """

    def __init__(
        self,
        in_channels: int,
        growth_rate: int,
        groups: int,
        condense_factor: int,
        sfr_groups: int,
        sparse_factor: Optional[int],
        sfr_order: Sequence[str],
        bottleneck: int,
        use_se: bool,
        norm_cfg: dict,
        act_cfg: dict,
        with_cp: bool,
        deploy: bool,
        sfr_init: str,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        pre_act: Dict[str, Any] = dict(
            groups=groups,
            bias=False,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            order=('norm', 'act', 'conv'),
        )
        width = bottleneck * growth_rate
        self.lgc = OrderedConvModule(
            in_channels,
            width,
            1,
            conv_cfg=dict(
                type='CondensedLGC' if deploy else 'LGC',
                condense_factor=condense_factor,
            ),
            **pre_act,
        )
        self.conv = OrderedConvModule(width, growth_rate, 3, padding=1, **pre_act)
        self.se = (
            SELayer(growth_rate, squeeze_channels=growth_rate, bias=False)
            if use_se
            else nn.Identity()
        )
        if sparse_factor is None:
            self.sfr = None
        else:
            self.sfr = SFRModule(
                growth_rate,
                in_channels,
                groups=sfr_groups,
                sparse_factor=sparse_factor,
                order=sfr_order,
                norm_cfg=norm_cfg,
                act_cfg=act_cfg,
                deploy=deploy,
                sfr_init=sfr_init,
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + k, H, W)."""
        # Each part ends with a convolution: see _recomputed().
        new = self.se(self._recomputed(lambda x: self.conv(self.lgc(x)), x))
        old = x if self.sfr is None else self._recomputed(self.sfr, x, new)
        return torch.cat([old, new], dim=1)

    def add_to(self, arguments: KernelArguments) -> None:
        """Add the layer to the arguments of a block's kernel.

        Args:
            arguments (KernelArguments): The block's arguments.

        Raises:
            UnsupportedError: If the kernel does not support it.
        """
        check_type(self.lgc, OrderedConvModule)
        check_type(self.conv, OrderedConvModule)
        lgc = check_conv_module(self.lgc, CondensedLGC, NORM_FIRST)
        conv = check_conv_module(self.conv, nn.Conv2d, NORM_FIRST)
        if lgc.groups != conv.groups:
            raise UnsupportedError('its two convolutions differ in groups')
        has_se = type(self.se) is not nn.Identity
        arguments.spec.append(lgc.groups)
        arguments.add_act(self.lgc.activate)
        arguments.add_act(self.conv.activate)
        arguments.spec += [int(has_se), int(self.sfr is not None)]
        arguments.add_norm(self.lgc.norm)
        arguments.add_conv(lgc, 1)
        arguments.add_norm(self.conv.norm)
        arguments.add_conv(conv, 3)
        if has_se:
            add_se(arguments, self.se)
        else:
            check_type(self.se, nn.Identity)
        if self.sfr is not None:
            check_type(self.sfr, SFRModule)
            self.sfr.add_to(arguments)


replaces_forward(DenseLayer)


class Stem(KernelMixin, ConvModule):
    """First convolution; see :class:`mmcv.cnn.ConvModule`."""

    _only_if_loaded = True

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        args = self.kernel_args(x)
        if args is not None:
            return torch.ops.mmcdnv2.stem(x, *args)
        return super().forward(x)

    def _kernel_arguments(self) -> KernelArguments:
        arguments = KernelArguments()
        self.add_to(arguments)
        arguments.options = (self.conv.weight.size(0),)
        return arguments

    def add_to(self, arguments: KernelArguments) -> None:
        """Add the stem to the arguments of a kernel.

        Args:
            arguments (KernelArguments): The kernel's arguments.

        Raises:
            UnsupportedError: If the kernel does not support it.
        """
        check_type(self.conv, nn.Conv2d)
        if self.with_activation or self.order != CONV_FIRST or self.conv.groups != 1:
            raise UnsupportedError('it has more than a convolution and a norm')
        arguments.spec.append(int(self.with_norm))
        arguments.add_conv(self.conv, 3, stride=2)
        if self.with_norm:
            arguments.add_norm(self.norm)


class DenseBlock(KernelMixin, Sequential):
    """An optional pooling followed by dense layers.

    Its children, in execution order, are 'pool' (optional), the layers, and in
    the last block 'norm' and 'act'. A condensed block in evaluation mode runs as
    one native kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W'), half of H and W with 'pool'."""
        args = self.kernel_args(x)
        if args is not None:
            return torch.ops.mmcdnv2.dense_block(x, *args)
        return super().forward(x)

    def _kernel_arguments(self) -> KernelArguments:
        arguments = KernelArguments()
        arguments.spec.append(int(self.norm_and_act is not None))
        new_channels = self.add_to(arguments)
        arguments.options = (self.pools(), new_channels)
        return arguments

    @property
    def norm_and_act(self) -> Optional[Tuple[nn.Module, nn.Module]]:
        """tuple[nn.Module] | None: The final norm and activation, if any."""
        norm = getattr(self, 'norm', None)
        return None if norm is None else (norm, self.act)

    def dense_layers(self) -> List[nn.Module]:
        """Return the dense layers in order."""
        others = ('pool', 'norm', 'act')
        return [layer for name, layer in self.named_children() if name not in others]

    def pools(self) -> bool:
        """Return whether the block starts with the 2x2 average pooling.

        Raises:
            UnsupportedError: If the pooling is a different one.
        """
        pool = getattr(self, 'pool', None)
        if pool is None:
            return False
        check_type(pool, nn.AvgPool2d)
        sizes = map(_pair, (pool.kernel_size, pool.stride, pool.padding))
        plain = tuple(sizes) == ((2, 2), (2, 2), (0, 0)) and not pool.ceil_mode
        if not plain or pool.divisor_override is not None:
            raise UnsupportedError('its pooling is not over 2x2 pixels')
        return True

    def add_to(self, arguments: KernelArguments) -> int:
        """Add layers and norm to the arguments of a kernel.

        Args:
            arguments (KernelArguments): The kernel's arguments.

        Returns:
            int: Number of new channels.

        Raises:
            UnsupportedError: If the kernel does not support the block.
        """
        if not self.dense_layers():
            raise UnsupportedError('it has no layers')
        new_channels = 0
        for layer in self.dense_layers():
            check_type(layer, DenseLayer)
            layer.add_to(arguments)
            new_channels += layer.conv.conv.weight.size(0)
        if self.norm_and_act is not None:
            norm, act = self.norm_and_act
            check_type(act, nn.ReLU)
            arguments.add_norm(norm)
        return new_channels


replaces_forward(Stem, DenseBlock)
