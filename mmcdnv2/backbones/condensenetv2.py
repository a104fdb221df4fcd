"""CondenseNetV2 for ImageNet-sized images."""

from typing import Dict, Optional, Sequence, Tuple, Union

import torch
from mmcv.cnn import ConvModule, build_activation_layer, build_norm_layer
from mmengine.model import BaseModule, ModuleList, Sequential
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmpretrain.models.utils import SELayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import InputError
from ..registry import register_model
from .base import CondensableMixin


class DenseLayer(BaseModule):
    """Compute new features from all earlier ones and reactivate those.

    LGC (C -> bottleneck * k), 3x3 group convolution (-> k), optionally
    squeeze-and-excite, then ``cat([x + SFR(new), new])`` (paper, Sec. 3).
    All convolutions come after their norm and activation.

    Args:
        in_channels (int): Number of channels so far, C.
        growth_rate (int): Number of new channels, k.
        groups (int): Groups of all three convolutions.
        condense_factor (int): See :class:`~mmcdnv2.layers.LGC`.
        sparse_factor (int): See :class:`~mmcdnv2.layers.SFR`.
        bottleneck (int): Width of the LGC's output in growth rates.
        use_se (bool): Whether to squeeze and excite the new features.
        norm_cfg (dict): Config of the norm layers.
        act_cfg (dict): Config of the activation layers.
        with_cp (bool): Whether to recompute the layer in the backward pass.
        deploy (bool): Whether to build the condensed form.
    """

    def __init__(
        self,
        in_channels: int,
        growth_rate: int,
        groups: int,
        condense_factor: int,
        sparse_factor: int,
        bottleneck: int,
        use_se: bool,
        norm_cfg: dict,
        act_cfg: dict,
        with_cp: bool,
        deploy: bool,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        pre_act = dict(
            groups=groups,
            bias=False,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            order=('norm', 'act', 'conv'),
        )
        prefix = 'Condensed' if deploy else ''
        width = bottleneck * growth_rate
        self.lgc = ConvModule(
            in_channels,
            width,
            1,
            conv_cfg=dict(type=f'{prefix}LGC', condense_factor=condense_factor),
            **pre_act,
        )
        self.conv = ConvModule(width, growth_rate, 3, padding=1, **pre_act)
        self.se = (
            SELayer(growth_rate, squeeze_channels=growth_rate, bias=False)
            if use_se
            else nn.Identity()
        )
        self.sfr = ConvModule(
            growth_rate,
            in_channels,
            1,
            conv_cfg=dict(type=f'{prefix}SFR', sparse_factor=sparse_factor),
            **pre_act,
        )

    def _forward(self, x: Tensor) -> Tensor:
        new = self.se(self.conv(self.lgc(x)))
        return torch.cat([x + self.sfr(new), new], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + k, H, W)."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)


@register_model
class CondenseNetV2(CondensableMixin, BaseModule):
    """CondenseNetV2 backbone.

    `CondenseNet V2: Sparse Feature Reactivation for Deep Networks
    <https://arxiv.org/abs/2104.04382>`_, Sec. 3.

    The network trains dense and is sparsified by
    :class:`~mmcdnv2.engine.SparsificationHook`; :meth:`switch_to_deploy`
    condenses it. Checkpoints of either form load into either form, if the
    sparsification is finished.

    Args:
        arch (str | dict): 'a', 'b', 'c', or a dict with ``depths`` (dense
            layers of each block), ``growth_rates`` (of each block),
            ``groups``, ``condense_factor`` and ``sparse_factor``. Optional:
            ``bottleneck`` (width of the LGC in growth rates, default 4),
            ``hswish_from`` and ``se_from`` (first block, counted from 0, with
            hard-swish and with squeeze-and-excite, default 2 and 3).
            Defaults to 'a'.
        in_channels (int): Channels of the input image. Defaults to 3.
        out_indices (int | Sequence[int]): Blocks whose outputs are returned;
            strides 2, 4, 8, 16 and 32 for 0 to 4. The last block's output has
            passed the final norm and ReLU. Negative numbers count from the
            last block. Blocks behind the last one returned are neither run nor
            trained. Defaults to (-1, ).
        frozen_stages (int): 0 freezes the stem, n the stem and the first n
            blocks; -1 freezes nothing. Defaults to -1.
        norm_eval (bool): Whether norm layers use their running statistics in
            training. Defaults to False.
        with_cp (bool): Whether to recompute each dense layer in the backward
            pass, which saves memory and costs time. Defaults to False.
        deploy (bool): Whether to build the condensed form. Defaults to False.
        norm_cfg (dict): Config of the norm layers. Defaults to
            ``dict(type='BN')``.
        init_cfg (dict, optional): Initialisation config, for example
            ``dict(type='Pretrained', checkpoint=..., prefix='backbone.')``.
            By default convolutions are Kaiming normal with fan-out and norm
            weights one.

    Raises:
        InputError: If the arch is unknown or incomplete, an index or stage is
            out of range, or channels cannot be split into the groups.

    Note:
        mmcv's ``fuse_conv_bn`` takes every norm to follow its convolution. Here
        it goes before, so do not fuse this network with it.

    Examples:
        >>> import torch
        >>> from mmcdnv2.backbones import CondenseNetV2
        >>> backbone = CondenseNetV2('a', out_indices=(1, 2, 3, 4)).eval()
        >>> for out in backbone(torch.rand(1, 3, 64, 64)):
        ...     print(tuple(out.shape))
        (1, 32, 16, 16)
        (1, 96, 8, 8)
        (1, 288, 4, 4)
        (1, 800, 2, 2)
    """

    arch_settings = {
        'a': dict(
            depths=(1, 1, 4, 6, 8),
            growth_rates=(8, 8, 16, 32, 64),
            groups=8,
            condense_factor=8,
            sparse_factor=8,
        ),
        'b': dict(
            depths=(2, 4, 6, 8, 6),
            growth_rates=(6, 12, 24, 48, 96),
            groups=6,
            condense_factor=6,
            sparse_factor=6,
        ),
        'c': dict(
            depths=(4, 6, 8, 10, 8),
            growth_rates=(8, 16, 32, 64, 128),
            groups=8,
            condense_factor=8,
            sparse_factor=8,
        ),
    }

    def __init__(
        self,
        arch: Union[str, Dict] = 'a',
        in_channels: int = 3,
        out_indices: Union[int, Sequence[int]] = (-1,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        norm_cfg: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        settings = self._resolve_arch(arch)
        depths = settings.pop('depths')
        growth_rates = settings.pop('growth_rates')
        hswish_from = settings.pop('hswish_from')
        se_from = settings.pop('se_from')
        blocks = len(depths)
        if isinstance(out_indices, int):
            out_indices = (out_indices,)
        if not out_indices or not all(-blocks <= i < blocks for i in out_indices):
            raise InputError(
                f'out_indices must be in [{-blocks}, {blocks - 1}] for {blocks} '
                f'blocks, got {tuple(out_indices)}.'
            )
        if not -1 <= frozen_stages <= blocks:
            raise InputError(
                f'frozen_stages must be in [-1, {blocks}], got {frozen_stages}.'
            )
        self.out_indices = tuple(i % blocks for i in out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        norm_cfg = norm_cfg or dict(type='BN')

        channels = 2 * growth_rates[0]
        self.stem = ConvModule(
            in_channels, channels, 3, stride=2, padding=1, bias=False, act_cfg=None
        )
        self.pool = nn.AvgPool2d(2)
        self.blocks = ModuleList()
        self.out_channels = []
        for i, (depth, growth_rate) in enumerate(zip(depths, growth_rates)):
            act = 'HSwish' if i >= hswish_from else 'ReLU'
            self.blocks.append(
                Sequential(
                    *(
                        DenseLayer(
                            channels + j * growth_rate,
                            growth_rate,
                            use_se=i >= se_from,
                            norm_cfg=norm_cfg,
                            act_cfg=dict(type=act),
                            with_cp=with_cp,
                            deploy=deploy,
                            **settings,
                        )
                        for j in range(depth)
                    )
                )
            )
            channels += depth * growth_rate
            self.out_channels.append(channels)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.act = build_activation_layer(dict(type='ReLU', inplace=True))
        used = max(self.out_indices) + 1
        if used < blocks:
            # DDP wants a gradient for every parameter that asks for one.
            self.blocks[used:].requires_grad_(False)
            self.norm.requires_grad_(False)
        self._freeze()

    @classmethod
    def _resolve_arch(cls, arch: Union[str, Dict]) -> Dict:
        """Return the settings of a named or given arch, defaults filled in."""
        if not isinstance(arch, dict):
            if arch not in cls.arch_settings:
                raise InputError(
                    f'Unknown arch {arch!r}: choose from '
                    f'{sorted(cls.arch_settings)} or give a dict.'
                )
            arch = cls.arch_settings[arch]
        required = set(cls.arch_settings['a'])
        optional = dict(bottleneck=4, hswish_from=2, se_from=3)
        missing = required - set(arch)
        unknown = set(arch) - required - set(optional)
        if missing or unknown:
            raise InputError(
                f'An arch dict needs the keys {sorted(required)} and may have '
                f'{sorted(optional)}; missing: {sorted(missing)}, unknown: '
                f'{sorted(unknown)}.'
            )
        settings = {**optional, **arch}
        depths, growth_rates = settings['depths'], settings['growth_rates']
        if len(depths) != len(growth_rates) or not depths:
            raise InputError(
                'depths and growth_rates need one entry per block, got '
                f'{len(depths)} and {len(growth_rates)}.'
            )
        if settings['groups'] < 1 or any(k % settings['groups'] for k in growth_rates):
            raise InputError(
                'growth_rates must be divisible by a positive number of groups, got '
                f'{tuple(growth_rates)} and groups={settings["groups"]}.'
            )
        return settings

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the features of the blocks in ``out_indices``.

        Args:
            x (Tensor): Images, shape (N, in_channels, H, W).

        Returns:
            tuple[Tensor]: Feature maps, shapes (N, out_channels[i], H / s,
            W / s) with stride s = 2 ** (i + 1), rounded down.
        """
        x = self.stem(x)
        outs = []
        for i, block in enumerate(self.blocks[: max(self.out_indices) + 1]):
            x = block(self.pool(x) if i else x)
            if i == len(self.blocks) - 1:
                x = self.act(self.norm(x))
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.stem, *self.blocks[: self.frozen_stages]]
        if self.frozen_stages == len(self.blocks):
            frozen.append(self.norm)
        for module in frozen:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'CondenseNetV2':
        """Set the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self
