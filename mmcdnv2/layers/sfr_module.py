"""SFR with its norm and activation, to plug into any network."""

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
from .condensed_conv import CondensedSFR
from .ordered_conv_module import OrderedConvModule


@register_model
class SFRModule(KernelMixin, OrderedConvModule):
    """Reactivate old features by new ones: ``old + SFR(new)`` (paper, Sec. 3).

    Fits wherever a network computes new features from old ones and keeps
    both: each new channel group learns which old channels to update.

    Args:
        in_channels (int): Number of new channels, k.
        out_channels (int): Number of old channels, C.
        groups (int): See :class:`SFR`. Defaults to 1.
        sparse_factor (int, optional): See :class:`SFR`. Defaults to
            ``groups``.
        order (Sequence[str]): Order of convolution, norm and activation.
            Defaults to ('conv', 'norm', 'act'), as the paper's text has it.
        norm_cfg (dict, optional): Config of the norm layer. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict, optional): Config of the activation layer. Defaults to
            ``dict(type='ReLU')``.
        deploy (bool): Whether to build the condensed form. Defaults to False.

    Raises:
        InputError: If the factor is not in [1, out_channels].

    Examples:
        >>> sfr = SFRModule(16, 64, groups=4, sparse_factor=4)
        >>> old, new = torch.rand(1, 64, 8, 8), torch.rand(1, 16, 8, 8)
        >>> features = torch.cat([sfr(old, new), new], dim=1)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int = 1,
        sparse_factor: Optional[int] = None,
        order: Sequence[str] = ('conv', 'norm', 'act'),
        norm_cfg: Optional[dict] = None,
        act_cfg: Optional[dict] = None,
        deploy: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            1,
            groups=groups,
            bias=False,
            conv_cfg=dict(
                type='CondensedSFR' if deploy else 'SFR', sparse_factor=sparse_factor
            ),
            norm_cfg=norm_cfg or dict(type='BN'),
            act_cfg=act_cfg or dict(type='ReLU'),
            order=tuple(order),
        )

    def forward(self, old: Tensor, new: Tensor) -> Tensor:
        """Update the old features.

        Args:
            old (Tensor): Shape (N, out_channels, H, W).
            new (Tensor): Shape (N, in_channels, H, W).

        Returns:
            Tensor: Shape (N, out_channels, H, W).
        """
        args = self.kernel_args(old, new)
        if args is not None:
            return torch.ops.mmcdnv2.reactivate(old, new, *args)
        return old + super().forward(new)

    def add_to(self, arguments: KernelArguments) -> None:
        """Add the reactivation to a kernel's arguments.

        Args:
            arguments (KernelArguments): Of the reactivation or of a block.

        Raises:
            UnsupportedError: If the kernel does not take it.
        """
        conv = check_conv_module(self, CondensedSFR, NORM_FIRST, CONV_FIRST)
        arguments.spec += [conv.groups, int(self.order == NORM_FIRST)]
        arguments.add_act(self.activate)
        arguments.add_norm(self.norm)
        arguments.add_conv(conv, 1)

    def _kernel_arguments(self) -> KernelArguments:
        arguments = KernelArguments()
        self.add_to(arguments)
        return arguments


replaces_forward(SFRModule)
