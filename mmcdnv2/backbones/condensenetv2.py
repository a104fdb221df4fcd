"""CondenseNetV2, and CondenseNet, which has no reactivation."""

from collections import OrderedDict
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.utils import is_seq_of
from torch import Tensor, nn

from ..errors import InputError
from ..ops.kernel_arguments import KernelArguments, UnsupportedError, check_type
from ..ops.kernel_module import KernelMixin
from ..registry import register_model
from .base import BlockBackbone
from .dense_block import DenseBlock, DenseLayer, Stem

# The CIFAR networks have only ReLU and no squeeze-and-excite.
_CIFAR = dict(
    growth_rates=(8, 16, 32),
    groups=4,
    condense_factor=4,
    sparse_factor=4,
    sfr_order=('conv', 'norm', 'act'),
    stem_stride=1,
    hswish_from=None,
    se_from=None,
)
# CondenseNet, the first version, also has no reactivation.
_V1_CIFAR = dict(_CIFAR, sparse_factor=None)
_V1_IMAGENET = dict(
    depths=(4, 6, 8, 10, 8),
    growth_rates=(8, 16, 32, 64, 128),
    sparse_factor=None,
    hswish_from=None,
    se_from=None,
)


@register_model
class CondenseNetV2(KernelMixin, BlockBackbone):
    """CondenseNetV2 and CondenseNet backbone.

    `CondenseNet V2: Sparse Feature Reactivation for Deep Networks
    <https://arxiv.org/abs/2104.04382>`_, Sec. 3, and `CondenseNet: An
    Efficient DenseNet using Learned Group Convolutions
    <https://arxiv.org/abs/1711.09224>`_.

    :class:`~mmcdnv2.engine.SparsificationHook` sparsifies the network during
    training; :meth:`switch_to_deploy` condenses it. Once the sparsification is
    finished, checkpoints of either form load into either form.

    Args:
        arch (str | dict): 'a', 'b' or 'c' for ImageNet, 'cifar-110' or
            'cifar-146' for CIFAR; 'v1-74-g4' or 'v1-74-g8' for CondenseNet on
            ImageNet, 'v1-cifar-50', '-74', '-86', '-98', '-110' or '-122' on
            CIFAR; or a dict with ``depths`` (dense layers of each block, at
            least 1), ``growth_rates`` (of each block), ``groups`` (of the LGC,
            the 3x3 convolution and the reactivation; divides the growth
            rates), ``condense_factor`` and ``sparse_factor`` (None for no
            reactivation). Optional: ``sfr_groups`` (of the reactivation alone,
            default ``groups``), ``sfr_order`` (of its convolution, norm and
            activation, default ('norm', 'act', 'conv')), ``bottleneck``
            (width of the LGC in growth rates, default 4), ``hswish_from`` and
            ``se_from`` (first block, counted from 0, with hard-swish and with
            squeeze-and-excite, None for no such block, default 2 and 3) and
            ``stem_stride`` (default 2). Defaults to 'a'.
        in_channels (int): Channels of the input image. Defaults to 3.
        out_indices (int | Sequence[int]): Blocks whose outputs are returned;
            strides 2, 4, 8, 16 and 32 for 0 to 4 (with stem_stride 2). The last
            block ends with the final norm and ReLU. Negative numbers count from
            the last block. Blocks after the last returned one are neither run
            nor trained. Defaults to (-1, ).
        frozen_stages (int): 0 freezes the stem, n the stem and the first n
            blocks; -1 freezes nothing. Defaults to -1.
        norm_eval (bool): Whether norm layers use their running statistics in
            training. Defaults to False.
        with_cp (bool): Whether to recompute each dense layer, except for its 3x3
            convolution, in the backward pass, which saves memory and costs time.
            Defaults to False.
        deploy (bool): Whether to build the condensed form. Defaults to False.
        norm_cfg (dict): Config of the norm layers. Defaults to
            ``dict(type='BN')``.
        init_cfg (dict, optional): Initialisation config, for example
            ``dict(type='Pretrained', checkpoint=..., prefix='backbone.')``.
            By default, convolutions are Kaiming normal with fan-out and norm
            weights are 1, except for the reactivations.
        sfr_init (str): Initialisation of the reactivations, 'identity' or
            'released'; see :class:`~mmcdnv2.layers.SFRModule`. Defaults to
            'identity'.

    Raises:
        InputError: If the arch is unknown or incomplete, a depth or growth rate
            is not a positive integer, an index or ``frozen_stages`` is out of range,
            channels cannot be split into the groups, or ``sfr_init`` is unknown.

    Note:
        mmcv's ``fuse_conv_bn`` does not change the dense layers, because their
        norms come before the convolutions. The native kernels, which run the
        condensed network, apply the norms at no extra cost.

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

    _reports_parts = True

    arch_settings: Dict[str, Dict[str, Any]] = {
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
        'cifar-110': dict(depths=(12, 12, 12), **_CIFAR),
        'cifar-146': dict(depths=(16, 16, 16), **_CIFAR),
        'v1-74-g4': dict(groups=4, condense_factor=4, **_V1_IMAGENET),
        'v1-74-g8': dict(groups=8, condense_factor=8, **_V1_IMAGENET),
        'v1-cifar-50': dict(depths=(8, 8, 8), **_V1_CIFAR),
        'v1-cifar-74': dict(depths=(12, 12, 12), **_V1_CIFAR),
        'v1-cifar-86': dict(depths=(14, 14, 14), **_V1_CIFAR),
        'v1-cifar-98': dict(depths=(16, 16, 16), **_V1_CIFAR),
        'v1-cifar-110': dict(depths=(18, 18, 18), **_V1_CIFAR),
        'v1-cifar-122': dict(depths=(20, 20, 20), **_V1_CIFAR),
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
        sfr_init: str = 'identity',
    ) -> None:
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        settings = self._resolve_arch(arch)
        depths = settings.pop('depths')
        growth_rates = settings.pop('growth_rates')
        hswish_from = settings.pop('hswish_from')
        se_from = settings.pop('se_from')
        stem_stride = settings.pop('stem_stride')
        norm_cfg = norm_cfg or dict(type='BN')

        channels = 2 * growth_rates[0]
        stem = Stem(in_channels, channels, 3, stem_stride, 1, bias=False, act_cfg=None)
        blocks, out_channels = [], []
        for i, (depth, growth_rate) in enumerate(zip(depths, growth_rates)):
            act_cfg: Dict[str, Any] = dict(type='ReLU')
            if hswish_from is not None and i >= hswish_from:
                # In place, autograd would copy the input first.
                act_cfg = dict(type='HSwish', inplace=False)
            # Named, so that the layers are numbered from 0 after 'pool'.
            block = OrderedDict()
            if i:
                block['pool'] = nn.AvgPool2d(2)
            for j in range(depth):
                block[str(j)] = DenseLayer(
                    channels + j * growth_rate,
                    growth_rate,
                    use_se=se_from is not None and i >= se_from,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                    with_cp=with_cp,
                    deploy=deploy,
                    sfr_init=sfr_init,
                    **settings,
                )
            channels += depth * growth_rate
            if i == len(depths) - 1:
                block['norm'] = build_norm_layer(norm_cfg, channels)[1]
                relu = dict(type='ReLU', inplace=True)
                block['act'] = build_activation_layer(relu)
            blocks.append(DenseBlock(block))
            out_channels.append(channels)
        self._assemble(stem, blocks, out_channels)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the features of the blocks in ``out_indices``.

        Args:
            x (Tensor): Images, shape (N, in_channels, H, W).

        Returns:
            tuple[Tensor]: Feature maps, shapes (N, out_channels[i], H / s,
            W / s) with s the stride of block i.

        Raises:
            InputError: If the images are too small for the poolings.
        """
        # While torch.fx or torch.jit traces, sizes are not numbers.
        has_sizes = isinstance(x, Tensor) and not torch.jit.is_tracing()
        if has_sizes and isinstance(self.stem, Stem):
            self._check_size(*x.shape[-2:])
        args = self.kernel_args(x)
        if args is not None:
            return tuple(torch.ops.mmcdnv2.backbone(x, *args))
        return super().forward(x)

    def _check_size(self, height: int, width: int) -> None:
        """Check that at least one pixel is left after the poolings."""
        poolings = max(self.out_indices)
        smallest = (2**poolings - 1) * self.stem.conv.stride[0] + 1
        if height < smallest or width < smallest:
            raise InputError(
                f'CondenseNetV2 with {poolings} poolings needs images of at least '
                f'{smallest} x {smallest} pixels, got {height} x {width}: resize or '
                'pad them, or return earlier blocks with out_indices.'
            )

    def _kernel_arguments(self) -> KernelArguments:
        arguments = KernelArguments()
        check_type(self.stem, Stem)
        self.stem.add_to(arguments)
        pools: List[int] = []
        channels: List[int] = []
        # Dynamo cannot trace a slice of a ModuleList.
        for _, block in zip(range(max(self.out_indices) + 1), self.blocks):
            check_type(block, DenseBlock)
            pools.append(int(block.pools()))
            has_norm = block.norm_and_act is not None
            arguments.spec += [pools[-1], len(block.dense_layers()), int(has_norm)]
            before = channels[-1] if channels else self.stem.conv.weight.size(0)
            channels.append(before + block.add_to(arguments))
        if pools[0]:
            raise UnsupportedError('its first block pools its input')
        arguments.options = (pools, channels, sorted(set(self.out_indices)))
        return arguments

    def _kernel_settings(self) -> Tuple[int, ...]:
        return tuple(self.out_indices)

    @staticmethod
    def _check_numbers(settings: Dict[str, Any]) -> None:
        """Check that an arch's settings are integers in their range."""
        smallest = dict(groups=1, condense_factor=1, bottleneck=1, stem_stride=1)
        optional = dict(sparse_factor=1, sfr_groups=1, hswish_from=0, se_from=0)
        for name, least in {**smallest, **optional}.items():
            value = settings[name]
            may_be_none = name in optional
            if value is None and may_be_none:
                continue
            if not isinstance(value, int) or value < least:
                raise InputError(
                    f'{name} of an arch must be an integer of at least {least}'
                    f'{" or None" if may_be_none else ""}, got {value!r}.'
                )

    @classmethod
    def _resolve_arch(cls, arch: Union[str, Dict]) -> Dict:
        """Return the settings of an arch, with defaults."""
        if not isinstance(arch, dict):
            if arch not in cls.arch_settings:
                raise InputError(
                    f'Unknown arch {arch!r}: choose from '
                    f'{sorted(cls.arch_settings)} or pass a dict.'
                )
            arch = cls.arch_settings[arch]
        required = set(cls.arch_settings['a'])
        optional = dict(
            bottleneck=4,
            hswish_from=2,
            se_from=3,
            sfr_groups=None,
            sfr_order=('norm', 'act', 'conv'),
            stem_stride=2,
        )
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
        if (
            not (is_seq_of(depths, int) and is_seq_of(growth_rates, int))
            or len(depths) != len(growth_rates)
            or min((*depths, *growth_rates), default=0) < 1
        ):
            raise InputError(
                'depths and growth_rates need one positive integer per block, got '
                f'{depths} and {growth_rates}.'
            )
        cls._check_numbers(settings)
        if settings['sfr_groups'] is None:
            settings['sfr_groups'] = settings['groups']
        for name in ('groups', 'sfr_groups'):
            groups = settings[name]
            if any(k % groups for k in growth_rates):
                raise InputError(
                    'growth_rates must be divisible by the number of groups, '
                    f'got {tuple(growth_rates)} and {name}={groups}.'
                )
        return settings
