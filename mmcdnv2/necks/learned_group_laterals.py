"""Learned group convolutions between a backbone and a neck."""

from typing import Any, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import BaseModule, ModuleList
from torch import Tensor

from ..condensable import CondensableMixin
from ..errors import InputError
from ..layers import LGCModule
from ..registry import register_model


@register_model
class LearnedGroupLaterals(CondensableMixin, BaseModule):
    """Reduce the channels of each of a backbone's feature maps with an LGC.

    Dense networks return wide maps, and most necks use the width of their input.
    Insert this module before any neck::

        neck=[
            dict(type='LearnedGroupLaterals', in_channels=[400, 1040, 2064],
                 out_channels=96),
            dict(type='CSPNeXtPAFPN', in_channels=[96, 96, 96], ...),
        ]

    ``SparsificationHook`` prunes and ``tools/condense.py`` condenses it with the
    backbone.

    Args:
        in_channels (Sequence[int]): Number of channels of each map.
        out_channels (int | Sequence[int]): Number of output channels, one for all
            maps or one per map; divisible by ``groups``.
        groups (int): See :class:`~mmcdnv2.layers.LGC`. Defaults to 8.
        condense_factor (int | Sequence[int], optional): See
            :class:`~mmcdnv2.layers.LGC`; one for all maps or one per map, for
            example a smaller one for narrow maps. Defaults to ``groups``.
        order (Sequence[str]): Order of convolution, norm and activation.
            Defaults to ('conv', 'norm', 'act').
        norm_cfg (dict, optional): Config of the norm layers. Defaults to
            ``dict(type='BN')``.
        act_cfg (dict, optional): Config of the activation layers. Defaults to
            None, as necks begin with a convolution; see docs/detection.md for a
            comparison.
        deploy (bool): Whether to build the condensed form. Defaults to False.
        init_cfg (dict, optional): Initialisation config. Defaults to None.

    Raises:
        InputError: If ``out_channels`` or ``condense_factor`` does not fit the
            number of maps, their channels or ``groups``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Union[int, Sequence[int]],
        groups: int = 8,
        condense_factor: Union[int, Sequence[int], None] = None,
        order: Sequence[str] = ('conv', 'norm', 'act'),
        norm_cfg: Optional[dict] = None,
        act_cfg: Optional[dict] = None,
        deploy: bool = False,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = tuple(in_channels)
        self.out_channels = self._per_level('out_channels', out_channels)
        factors = self._per_level('condense_factor', condense_factor)
        self.laterals = ModuleList(
            LGCModule(
                channels,
                width,
                groups=groups,
                condense_factor=factor,
                order=order,
                norm_cfg=norm_cfg,
                act_cfg=act_cfg,
                deploy=deploy,
            )
            for channels, width, factor in zip(
                self.in_channels, self.out_channels, factors
            )
        )

    def _per_level(self, name: str, value: Any) -> tuple:
        """Expand a setting to one value per feature map."""
        number = len(self.in_channels)
        if value is None or isinstance(value, int):
            return (value,) * number
        if len(value) != number:
            raise InputError(
                f'{name} of LearnedGroupLaterals must be one number, or one for each '
                f'of the {number} in_channels, got {list(value)}.'
            )
        return tuple(value)

    def forward(self, feats: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Map the backbone's feature maps.

        Args:
            feats (Sequence[Tensor]): Shapes (N, in_channels[i], H_i, W_i).

        Returns:
            tuple[Tensor]: Shapes (N, out_channels[i], H_i, W_i).

        Raises:
            InputError: If the number of maps or their channels do not match
                ``in_channels``.
        """
        channels = tuple(x.size(1) for x in feats)
        # While torch.fx or torch.jit traces, sizes are not numbers.
        symbolic = torch.jit.is_tracing() or not all(
            isinstance(x, Tensor) for x in feats
        )
        if not symbolic and channels != self.in_channels:
            raise InputError(
                f'LearnedGroupLaterals has in_channels={list(self.in_channels)}, but '
                f'the backbone returns maps with {list(channels)} channels: change '
                "in_channels or the backbone's out_indices."
            )
        return tuple(lateral(x) for lateral, x in zip(self.laterals, feats))
