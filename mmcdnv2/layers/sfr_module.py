"""SFR with norm and activation, for any network."""

from typing import Optional, Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
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

# Values of SFRModule's sfr_init.
SFR_INITS = ('identity', 'released')


@register_model
class SFRModule(KernelMixin, OrderedConvModule):
    """Reactivate old features with new ones: ``old + SFR(new)`` (paper, Sec. 3).

    Fits any network that computes new features from old ones and keeps both:
    each group of new channels learns which old channels to update.

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
        sfr_init (str): Initialisation. 'identity' starts with the old features
            unchanged or almost unchanged: if the norm precedes the convolution,
            the convolution's weight is 0 and the norm's 0.1; otherwise the
            norm's weight is 0.01. 'released' is that of the authors' code: a
            random convolution and a norm weight of 1, which adds noise to all
            old features. docs/evidence.md compares them. Defaults to 'identity'.

    Raises:
        InputError: If the factor is not in [1, out_channels] or ``sfr_init`` is
            unknown.

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
        sfr_init: str = 'identity',
    ) -> None:
        if sfr_init not in SFR_INITS:
            raise InputError(f'sfr_init must be one of {SFR_INITS}, got {sfr_init!r}.')
        # The parent's constructor calls init_weights().
        self.sfr_init = sfr_init
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
            order=order,
        )

    def init_weights(self) -> None:
        """Initialise as mmcv's ConvModule, then apply ``sfr_init``."""
        super().init_weights()
        self.init_sfr()

    def init_sfr(self) -> None:
        """Apply ``sfr_init``.

        Networks that initialise their layers by type call this afterwards.
        """
        if self.sfr_init == 'released':
            return
        norm_first = self.order.index('norm') < self.order.index('conv')
        if norm_first:
            nn.init.zeros_(self.conv.weight)
        if self.norm.weight is not None:
            # Not 0: no gradient passes a zero norm and a ReLU. Before the convolution
            # the weight scales its input: adaptive optimizers take steps of a fixed
            # size, and at 1 the first ones would already disturb the old features.
            nn.init.constant_(self.norm.weight, 0.1 if norm_first else 0.01)

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
            arguments (KernelArguments): Arguments of the reactivation or of a block.

        Raises:
            UnsupportedError: If the kernel does not support it.
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
