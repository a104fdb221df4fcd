"""Condensed networks and the PyTorch operators to compare their kernels with."""

import torch
from conftest import randomise

from mmcdnv2 import ops
from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.layers import sparse_layers

ARCHS = dict(
    # 1 to 64 channels in a group, odd numbers among them.
    plain=dict(
        depths=(2, 1, 2, 1),
        growth_rates=(3, 9, 21, 48),
        groups=3,
        condense_factor=4,
        sparse_factor=5,
        hswish_from=1,
        se_from=2,
    ),
    conv_first=dict(
        depths=(2, 2),
        growth_rates=(8, 20),
        groups=4,
        sfr_groups=2,
        condense_factor=4,
        sparse_factor=4,
        sfr_order=('conv', 'norm', 'act'),
        hswish_from=None,
        se_from=None,
        stem_stride=1,
    ),
    many_sfr_groups=dict(
        depths=(1, 2),
        growth_rates=(8, 16),
        groups=2,
        sfr_groups=8,
        condense_factor=2,
        sparse_factor=3,
        hswish_from=1,
        se_from=1,
    ),
    no_sfr=dict(
        depths=(3, 2),
        growth_rates=(8, 16),
        groups=2,
        condense_factor=2,
        sparse_factor=None,
        se_from=1,
    ),
    # Winograd's convolution, and no mean of all pixels.
    wide=dict(
        depths=(2, 2),
        growth_rates=(16, 24),
        groups=2,
        condense_factor=2,
        sparse_factor=3,
        hswish_from=1,
        se_from=None,
    ),
)
MODERN = hasattr(torch.compiler, 'is_compiling')


def condensed(arch='plain', **kwargs):
    torch.manual_seed(0)
    backbone = CondenseNetV2(ARCHS.get(arch, arch), **kwargs)
    randomise(backbone)
    for layer in sparse_layers(backbone).values():
        layer.set_progress(1)
    backbone.switch_to_deploy()
    return backbone.eval()


def uses_kernels(module, *inputs):
    return module.kernel_args(*inputs) is not None


def fallback(module, *inputs):
    with ops.use_kernels(False):
        return module(*inputs)


def assert_same(actual, expected):
    actual, expected = tuple(actual), tuple(expected)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-5 * e.abs().max().item())
