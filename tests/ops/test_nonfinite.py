"""NaN and infinity in pixels and weights propagate as in PyTorch's operators."""

import copy
import math

import pytest
import torch
from kernel_networks import ARCHS, condensed, fallback
from torch import nn

from mmcdnv2 import ops
from mmcdnv2.backbones.dense_block import Stem
from mmcdnv2.layers import CondensedSFR
from mmcdnv2.necks import SEGlobalAveragePooling

pytestmark = pytest.mark.skipif(not ops.load(), reason=f'no kernels: {ops.describe()}')
KERNELS = torch.ops.mmcdnv2.kernel_names() if ops.load() else []
VALUES = (math.nan, math.inf, -math.inf)


@pytest.fixture(params=KERNELS)
def chosen(request):
    torch.ops.mmcdnv2.choose_kernels(request.param)
    yield
    torch.ops.mmcdnv2.choose_kernels(KERNELS[0])


@pytest.fixture
def operators(monkeypatch):
    """Run PyTorch's operators with an SFR that skips pruned weights.

    CondensedSFR.forward multiplies by the zeros of pruned weights, and zero times
    infinity is NaN.
    """

    def forward(self, x):
        x = x.unflatten(1, (-1, self.groups)).transpose(1, 2).flatten(1, 2)
        rows = nn.functional.conv2d(x, self.weight, groups=self.groups)
        out = x.new_zeros(len(x), self.columns, *x.shape[2:])
        return out.index_add_(1, self.index, rows)

    def run(module, *inputs):
        with monkeypatch.context() as patch:
            patch.setattr(CondensedSFR, 'forward', forward)
            return fallback(module, *inputs)

    return run


def parts_of(name):
    """Yield stem and blocks of a network with their numbers of input channels."""
    backbone = condensed(name)
    for part in (backbone.stem, *backbone.blocks):
        if part.runs_on() != ops.describe():
            continue
        weight = part._kernel_arguments().tensors()[0]
        yield part, weight.size(1) if weight.dim() == 4 else weight.numel()


def add_nonfinite(x, random):
    """Set up to three elements of a tensor to NaN or infinity."""
    flat = x.view(-1)
    for _ in range(int(torch.randint(1, 4, (), generator=random))):
        place, value = torch.randint(1 << 30, (2,), generator=random).tolist()
        flat[place % len(flat)] = VALUES[value % 3]


def kinds(x):
    return x.isnan() * 3 + x.isposinf() * 2 + x.isneginf()


def assert_same_kinds(actual, expected):
    different = (kinds(actual) != kinds(expected)).sum()
    assert not different
    finite = expected.isfinite()
    torch.testing.assert_close(actual[finite], expected[finite], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('name', ARCHS)
def test_pixels(name, chosen, operators):
    random, seen = torch.Generator().manual_seed(0), torch.zeros(4)
    for part, channels in parts_of(name):
        for height, width in ((28, 32), (29, 20), (14, 7), (3, 50)):
            x = torch.randn(2, channels, height, width, generator=random)
            add_nonfinite(x[0], random)
            expected = operators(part, x)
            seen += kinds(expected[0]).flatten().bincount(minlength=4)
            assert_same_kinds(part(x), expected)
            # The unpatched operators spread them at least as far.
            assert not (~part(x).isfinite() & fallback(part, x).isfinite()).any()
    assert seen.all()


@torch.no_grad()
def test_whole_networks(chosen, operators):
    random = torch.Generator().manual_seed(0)
    for name in ('wide', 'plain'):
        depth = len(ARCHS[name]['depths'])
        backbone = condensed(name, out_indices=tuple(range(depth)))
        for size in ((2, 3, 64, 96), (1, 3, 75, 50)):
            x = torch.rand(size, generator=random)
            add_nonfinite(x[:1], random)
            for actual, expected in zip(backbone(x), operators(backbone, x)):
                assert_same_kinds(actual, expected)


@torch.no_grad()
def test_pooling(chosen):
    random = torch.Generator().manual_seed(0)
    neck = SEGlobalAveragePooling(40, ratio=4).eval()
    for size in ((7, 7), (1, 1), (5, 13)):
        x = torch.randn(3, 40, *size, generator=random)
        add_nonfinite(x[1], random)
        assert_same_kinds(neck((x,))[0], fallback(neck, (x,))[0])


@torch.no_grad()
@pytest.mark.parametrize('name', ['wide'])
def test_weights(name, chosen, operators):
    random, tried = torch.Generator().manual_seed(0), 0
    for part, channels in parts_of(name):
        state = part.state_dict()
        for key in (key for key, value in state.items() if value.is_floating_point()):
            other = copy.deepcopy(part)
            add_nonfinite(other.state_dict()[key], random)
            x = torch.randn(1, channels, 13, 18, generator=random)
            actual, expected = other(x), operators(other, x)
            # PyTorch's convolution algorithms differ in whether they multiply the
            # zero padding by such a weight.
            if key.endswith('conv.conv.weight') or part._get_name() == 'Stem':
                actual, expected = (y[..., 3:-3, 3:-3] for y in (actual, expected))
            assert_same_kinds(actual, expected)
            tried += 1
    assert tried > 20


@torch.no_grad()
def test_norms_that_overflow_weights(operators):
    # Folding them into weights of both signs would make the sum NaN.
    torch.manual_seed(0)
    norm_cfg = dict(type='BN')
    kwargs = dict(stride=2, padding=1, bias=False, norm_cfg=norm_cfg, act_cfg=None)
    stem, block = Stem(3, 8, 3, **kwargs).eval(), condensed('wide').blocks[0]
    seen = torch.zeros(4)
    for part, norm, channels in ((stem, stem.norm, 3), (block, block[0].conv.norm, 32)):
        assert part.runs_on() == ops.describe()
        x = torch.randn(1, channels, 13, 18)
        for value in (math.inf, -math.inf, math.nan, 0.0):
            norm.weight.fill_(value)
            norm.bias.fill_(1)
            norm.running_mean.fill_(0.5)
            expected = operators(part, x)
            assert_same_kinds(part(x), expected)
            seen += kinds(expected).flatten().bincount(minlength=4)
    assert seen.all()
