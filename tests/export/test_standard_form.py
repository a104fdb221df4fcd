"""Condensed networks as convolutions that all engines have."""

from importlib.util import find_spec

import pytest
import torch
from conftest import randomise
from mmengine.registry import DefaultScope
from torch import nn

from lab.benchmark import RUNTIMES
from lab.benchmark.runtimes import Job, as_tensors
from mmcdnv2 import ops
from mmcdnv2.backbones import CondenseNetV2, SFRShuffleNetV2, ShuffleNetV2Plus
from mmcdnv2.export.standard_form import (
    DepthwiseSum,
    Select,
    Shuffle,
    StandardDenseLayer,
    to_standard_form,
)
from mmcdnv2.heads import LGCClsHead
from mmcdnv2.layers import (
    LGC,
    SFR,
    CondensedConv2d,
    LGCModule,
    SFRModule,
    condense_layers,
    sparse_layers,
)
from mmcdnv2.necks import LearnedGroupLaterals


def condensed(model):
    """Give a model random weights and condense it; in double precision."""
    randomise(model)
    for layer in sparse_layers(model).values():
        nn.init.kaiming_normal_(layer.weight)
        if layer.bias is not None:
            nn.init.normal_(layer.bias)
        layer.set_progress(1)
    condense_layers(model)
    return model.eval().double()


@torch.no_grad()
def check(model, *inputs, **options):
    """Compare a model with its standard form, which is returned."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    standard = to_standard_form(model, **options)
    with ops.use_kernels(False):
        expected, actual = as_tensors(model(*inputs)), as_tensors(standard(*inputs))
    assert len(expected) == len(actual)
    for x, y in zip(expected, actual):
        torch.testing.assert_close(y, x, atol=1e-12 * x.abs().max().item(), rtol=1e-9)
    modules = list(standard.modules())
    assert not [m for m in modules if isinstance(m, CondensedConv2d)]
    assert not any(m.training for m in modules)
    # The model is as it was.
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    return standard


def kinds(model):
    return {type(module) for module in model.modules()}


@pytest.mark.parametrize('seed', range(12))
def test_random_networks(seed):
    torch.manual_seed(seed)

    def pick(*values):
        return values[torch.randint(len(values), ()).item()]

    groups = pick(1, 2, 3, 4, 6)
    arch = dict(
        depths=(1, 2),
        growth_rates=[groups * pick(1, 2, 3, 4, 8, 16) for _ in range(2)],
        groups=groups,
        condense_factor=pick(1, 2),
        sparse_factor=pick(None, 1, 2),
        sfr_groups=pick(1, groups),
        sfr_order=pick(('norm', 'act', 'conv'), ('conv', 'norm', 'act')),
        bottleneck=pick(2, 4, 5),
        hswish_from=pick(None, 1),
        se_from=pick(None, 1),
    )
    model = condensed(CondenseNetV2(arch, out_indices=(0, 1)))
    x = torch.randn(2, 3, 14, 18, dtype=torch.double)
    standard = check(model, x)
    assert StandardDenseLayer in kinds(standard)


@pytest.mark.parametrize('arch', sorted(CondenseNetV2.arch_settings))
def test_archs(arch):
    torch.manual_seed(0)
    size = 9 if 'cifar' in arch else 33
    depth = len(CondenseNetV2.arch_settings[arch]['depths'])
    model = condensed(CondenseNetV2(arch, out_indices=range(depth)))
    check(model, torch.randn(1, 3, size, size, dtype=torch.double))


@pytest.mark.parametrize('build', [SFRShuffleNetV2, ShuffleNetV2Plus])
def test_shufflenets(build):
    torch.manual_seed(0)
    model = condensed(build(sparse_factor=8))
    check(model, torch.randn(1, 3, 33, 33, dtype=torch.double))


def test_forms_by_channels():
    torch.manual_seed(0)
    # Per block: 8, 16, 32, 64 and 128 new channels in 8 groups.
    model = condensed(CondenseNetV2('c', out_indices=(4,)))
    standard = check(model, torch.randn(1, 3, 32, 32, dtype=torch.double))
    layers = [block.get_submodule('0').new_features for block in standard.blocks]
    dense = [isinstance(layer.lgc, nn.Conv2d) for layer in layers]
    assert dense == [True, True, False, False, False]
    assert [type(layer.conv) for layer in layers[:2]] == [DepthwiseSum] * 2
    assert [len(layer.conv.sums) for layer in layers[:2]] == [1, 2]
    # Four, two and no groups are merged, and shuffled before.
    assert [layer.conv[1].groups for layer in layers[2:]] == [2, 4, 8]
    assert {type(layer.conv[0]) for layer in layers[2:]} == {Shuffle}
    # All groups of B's third block are merged: the weight is shuffled instead.
    standard = to_standard_form(condensed(CondenseNetV2('b')))
    layer = standard.blocks[2].get_submodule('0').new_features
    assert type(layer.conv) is nn.Conv2d
    assert layer.conv.groups == 1
    assert type(layer.lgc[0]) is Select


def test_engines_that_cannot_copy_channels():
    torch.manual_seed(0)
    backbone = CondenseNetV2('a', out_indices=(1, 2, 3, 4))
    laterals = LearnedGroupLaterals([32, 96, 288, 800], 96)
    model = condensed(nn.Sequential(backbone, laterals))
    x = torch.randn(1, 3, 32, 32, dtype=torch.double)
    assert kinds(check(model, x)) >= {Select, Shuffle}
    assert not kinds(check(model, x, gather=False)) & {Select, Shuffle}


@pytest.mark.parametrize('groups', [3, 4])
@pytest.mark.parametrize('outputs', [1, 2, 3])
@torch.no_grad()
def test_depthwise_sum(groups, outputs):
    torch.manual_seed(0)
    conv = nn.Conv2d(
        5 * groups, outputs * groups, (3, 5), 2, padding=(1, 2), groups=groups
    )
    order = torch.randperm(5 * groups)
    x = torch.randn(2, 5 * groups, 9, 10)
    torch.testing.assert_close(
        DepthwiseSum(conv, order)(x[:, order]), conv(x), atol=1e-5, rtol=1e-5
    )


def test_a_bias_between_the_convolutions_is_folded():
    torch.manual_seed(0)
    arch = dict(
        depths=(1,), growth_rates=(8,), groups=2, condense_factor=2, sparse_factor=2
    )
    model = condensed(CondenseNetV2(arch, out_indices=(0,)))
    lgc = model.blocks[0].dense_layers()[0].lgc.conv
    lgc.bias = nn.Parameter(torch.randn(lgc.out_channels, dtype=torch.double))
    check(model, torch.randn(1, 3, 14, 18, dtype=torch.double))


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('outputs', [24, 96])
def test_lone_layers(outputs, bias):
    torch.manual_seed(0)
    lgc = LGC(20, outputs, stride=2, groups=4, bias=bias, condense_factor=3)
    sfr = SFR(outputs, 20, padding=1, groups=8, bias=bias, sparse_factor=4)
    model = condensed(nn.Sequential(lgc, sfr))
    standard = check(model, torch.randn(2, 20, 7, 8, dtype=torch.double))
    assert isinstance(standard[0], nn.Conv2d) == (outputs == 24)
    # A model may be a layer.
    alone = condensed(nn.Sequential(LGC(20, outputs, groups=4)))[0]
    check(alone, torch.randn(2, 20, 5, 5).double())


def test_modules_of_detectors_and_heads():
    torch.manual_seed(0)
    maps = tuple(torch.randn(2, c, 6, 6, dtype=torch.double) for c in (24, 32))
    laterals = LearnedGroupLaterals([24, 32], [48, 80], groups=8)
    standard = check(condensed(laterals), maps)
    assert kinds(standard) >= {Select, Shuffle, LGCModule}
    check(condensed(LGCModule(24, 80, 4, order=('norm', 'act', 'conv'))), maps[0])
    check(condensed(SFRModule(32, 24, 4)), *maps)
    # Where its loss is registered.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        head = condensed(LGCClsHead(100, 24))
    standard = check(head, (torch.randn(2, 24, dtype=torch.double),))
    # Half of the inputs are copied, which one group need not shuffle.
    assert len(standard.fc[0].index) == 12
    assert Shuffle not in kinds(standard)


@pytest.mark.parametrize(
    ('norm_cfg', 'folded'),
    [
        (dict(type='GN', num_groups=2), False),
        (dict(type='BN', track_running_stats=False), False),
        (dict(type='BN', affine=False), True),
        (dict(type='BN', eps=0.1), True),
    ],
)
def test_norms_that_can_be_folded(norm_cfg, folded):
    torch.manual_seed(0)
    arch = dict(
        depths=(1, 1),
        growth_rates=(8, 8),
        groups=4,
        condense_factor=4,
        sparse_factor=None,
    )
    model = CondenseNetV2(arch, norm_cfg=norm_cfg)
    for layer in sparse_layers(model).values():
        layer.set_progress(1)
    condense_layers(model)
    model.eval().double()
    standard = check(model, torch.randn(2, 3, 16, 16, dtype=torch.double))
    assert (StandardDenseLayer in kinds(standard)) == folded


@torch.no_grad()
def test_engines_give_the_same_output():
    names = [
        name
        for name in ('onnxruntime', 'openvino')
        if all(map(find_spec, RUNTIMES[name].packages))
    ]
    if not names:
        pytest.skip('no engine is installed')
    torch.manual_seed(0)
    # Of all forms: depthwise and merged, of gathered inputs and of all.
    arch = dict(
        depths=(1, 1, 1),
        growth_rates=(8, 16, 32),
        groups=8,
        condense_factor=4,
        sparse_factor=4,
        hswish_from=1,
        se_from=2,
    )
    model = condensed(CondenseNetV2(arch, out_indices=(0, 1, 2))).float()
    x = torch.randn(1, 3, 24, 32)
    with ops.use_kernels(False):
        expected = model(x)
    job = Job(model, x, threads=1, kernels=False)
    for name in names:
        for actual, wanted in zip(as_tensors(RUNTIMES[name].prepare(job)()), expected):
            difference = (actual - wanted).abs().max() / wanted.abs().max()
            assert difference < 1e-5
