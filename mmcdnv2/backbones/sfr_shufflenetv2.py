"""ShuffleNetV2 with sparse feature reactivation."""

from typing import Any, Dict, Sequence, Union

import torch
from mmpretrain.models.backbones.shufflenet_v2 import InvertedResidual, ShuffleNetV2
from torch import Tensor, nn

from ..condensable import CondensableMixin
from ..layers import SFRModule, channel_shuffle
from ..registry import register_model
from .base import RecomputedMixin, check_frozen_stages, resolve_out_indices


class DownsamplingResidual(RecomputedMixin, InvertedResidual):
    """mmpretrain's unit of stride 2 with a correct ``with_cp``.

    mmpretrain's own updates the norms' statistics again in the backward pass.

    Args:
        in_channels (int): Number of input channels.
        out_channels (int): Number of output channels, even.
        kwargs: See mmpretrain's ``InvertedResidual``.
    """

    def __init__(self, in_channels: int, out_channels: int, **kwargs) -> None:
        super().__init__(in_channels, out_channels, stride=2, **kwargs)

    def _forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / 2, W / 2)."""
        return channel_shuffle(torch.cat([self.branch1(x), self.branch2(x)], dim=1), 2)


class ReactivatedResidual(RecomputedMixin, InvertedResidual):
    """Unit of stride 1 whose branch reactivates the identity half.

    Computes ``shuffle(cat([old + SFR(branch), branch]))``; the SFR is followed
    by norm and activation, like the unit's other convolutions.

    Args:
        channels (int): Number of input and output channels.
        groups (int): See :class:`~mmcdnv2.layers.SFR`.
        sparse_factor (int): See :class:`~mmcdnv2.layers.SFR`.
        deploy (bool): Whether to build the condensed form.
        sfr_init (str): See :class:`~mmcdnv2.layers.SFRModule`.
        kwargs: See mmpretrain's ``InvertedResidual``.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        sparse_factor: int,
        deploy: bool,
        sfr_init: str,
        **kwargs,
    ) -> None:
        super().__init__(channels, channels, **kwargs)
        half = channels // 2
        self.sfr = SFRModule(
            half,
            half,
            groups=groups,
            sparse_factor=sparse_factor,
            norm_cfg=kwargs['norm_cfg'],
            act_cfg=kwargs['act_cfg'],
            deploy=deploy,
            sfr_init=sfr_init,
        )

    def _forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        old, new = x.chunk(2, dim=1)
        new = self.branch2(new)
        return channel_shuffle(torch.cat([self.sfr(old, new), new], dim=1), 2)


@register_model
class SFRShuffleNetV2(CondensableMixin, ShuffleNetV2):
    """SFR-ShuffleNetV2 backbone (paper, Sec. 4).

    mmpretrain's ShuffleNetV2 with a reactivation in each unit of stride 1;
    the down-sampling units are unchanged. The paper's details are in an appendix
    that was not available; this reading gives the paper's FLOPs with
    ``sparse_factor=8``.

    Args:
        widen_factor (float): 0.5, 1.0, 1.5 or 2.0. Defaults to 1.0.
        out_indices (int | Sequence[int]): Stages whose outputs are returned:
            strides 8, 16 and 32 for 0 to 2 (for detectors), 3 for the final 1x1
            convolution. Negative numbers count from the last one. Stages after
            the last returned one are not built. Defaults to (3, ).
        frozen_stages (int): 0 freezes the stem, n the stem and the first n
            stages; -1 freezes nothing. Defaults to -1.
        groups (int): Groups of the reactivations, each reduced to the next divisor
            of its channels. Defaults to 8.
        sparse_factor (int): See :class:`~mmcdnv2.layers.SFR`. Defaults to 8.
        deploy (bool): Whether to build the condensed form. Defaults to False.
        sfr_init (str): Initialisation of the reactivations, 'identity' or
            'released'; see :class:`~mmcdnv2.layers.SFRModule`. Defaults to
            'identity'.
        kwargs: See :class:`mmpretrain.models.ShuffleNetV2`.

    Raises:
        InputError: If an index or stage is out of range, or ``sfr_init`` is
            unknown.
    """

    # Set by the parent.
    in_channels: int
    layers: nn.ModuleList

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: Union[int, Sequence[int]] = (3,),
        frozen_stages: int = -1,
        groups: int = 8,
        sparse_factor: int = 8,
        deploy: bool = False,
        sfr_init: str = 'identity',
        **kwargs,
    ) -> None:
        # The parent's constructor calls _make_layer.
        self._sfr_cfg: Dict[str, Any] = dict(
            groups=groups,
            sparse_factor=sparse_factor,
            deploy=deploy,
            sfr_init=sfr_init,
        )
        out_indices = resolve_out_indices(out_indices, 4)
        super().__init__(widen_factor, out_indices, **kwargs)
        # Unused stages would cost time, and DDP would miss their gradients.
        self.layers = self.layers[: max(out_indices) + 1]
        check_frozen_stages(frozen_stages, len(self.layers))
        self.frozen_stages = frozen_stages
        # The parent freezes only in train(), too late for DDP.
        self._freeze_stages()

    def _make_layer(self, out_channels: int, num_blocks: int) -> nn.Sequential:
        cfg = dict(
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
            with_cp=self.with_cp,
        )
        units = [DownsamplingResidual(self.in_channels, out_channels, **cfg)]
        for _ in range(num_blocks - 1):
            units.append(ReactivatedResidual(out_channels, **self._sfr_cfg, **cfg))
        self.in_channels = out_channels
        return nn.Sequential(*units)

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages >= 0:
            self.conv1.eval()

    def train(self, mode: bool = True) -> 'SFRShuffleNetV2':
        """Set the mode and return the network, which the parent does not."""
        super().train(mode)
        return self
