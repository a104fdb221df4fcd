"""LGC with norm and activation, for any network."""

from typing import Optional, Sequence

import torch
from torch import Tensor

from ..ops.kernel_arguments import (
    CONV_FIRST,
    NORM_FIRST,
    KernelArguments,
    check_conv_module,
    replaces_forward,
)
from ..ops.kernel_module import KernelMixin
from ..registry import register_model
from .condensed_conv import CondensedLGC
from .ordered_conv_module import OrderedConvModule

_RELU = dict(type='ReLU')


@register_model
class LGCModule(KernelMixin, OrderedConvModule):
    """A 1x1 convolution that learns which inputs its groups read (paper, Sec. 3).

    Replaces a 1x1 ``ConvModule`` whose outputs do not need all input channels.
    The condensed form runs as one native kernel.

    Args:
        in_channels (int): Number of input channels, C.
        out_channels (int): Number of output channels.
        groups (int): See :class:`LGC`. Defaults to 1.
        condense_factor (int, optional): See :class:`LGC`. Defaults to
            ``groups``.
        order (Sequence[str]): Order of convolution, norm and activation.
            Defaults to ('conv', 'norm', 'act').
        norm_cfg (dict, optional): Config of the norm layer. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict, optional): Config of the activation layer; None for no
            activation. Defaults to ``dict(type='ReLU')``.
        deploy (bool): Whether to build the condensed form. Defaults to False.

    Raises:
        InputError: If the factor is not in [1, in_channels] or out_channels is
            not divisible by ``groups``.

    Examples:
        >>> lgc = LGCModule(400, 96, groups=8)
        >>> lgc(torch.rand(1, 400, 40, 40)).shape
        torch.Size([1, 96, 40, 40])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int = 1,
        condense_factor: Optional[int] = None,
        order: Sequence[str] = ('conv', 'norm', 'act'),
        norm_cfg: Optional[dict] = None,
        act_cfg: Optional[dict] = _RELU,
        deploy: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            1,
            groups=groups,
            bias=False,
            conv_cfg=dict(
                type='CondensedLGC' if deploy else 'LGC',
                condense_factor=condense_factor,
            ),
            norm_cfg=norm_cfg or dict(type='BN'),
            act_cfg=act_cfg,
            order=order,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        args = self.kernel_args(x)
        if args is not None:
            return torch.ops.mmcdnv2.learned_group_conv(x, *args)
        return super().forward(x)

    def _kernel_arguments(self) -> KernelArguments:
        conv = check_conv_module(
            self, CondensedLGC, NORM_FIRST, CONV_FIRST, needs_act=False
        )
        norm_first = self.order == NORM_FIRST
        arguments = KernelArguments()
        arguments.spec += [conv.groups, int(norm_first)]
        if self.with_activation:
            arguments.add_act(self.activate)
        else:
            arguments.spec.append(0)
        if norm_first:
            arguments.add_norm(self.norm)
        arguments.add_conv(conv, 1)
        if not norm_first:
            arguments.add_norm(self.norm)
        arguments.options = (conv.out_channels,)
        return arguments


replaces_forward(LGCModule)
