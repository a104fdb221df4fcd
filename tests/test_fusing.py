"""mmcv's fuse_conv_bn, which MMDetection's tools offer, on what has sparse layers."""

import copy

import pytest
import torch
from conftest import randomise
from mmcv.cnn import ConvModule, fuse_conv_bn
from mmengine.config import Config
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm

from mmcdnv2 import ops
from mmcdnv2.backbones import CondenseNetV2, SFRShuffleNetV2, ShuffleNetV2Plus
from mmcdnv2.builder import build_model
from mmcdnv2.errors import InputError
from mmcdnv2.layers import (
    OrderedConvModule,
    SFRModule,
    condense_layers,
    kernel_report,
    sparse_layers,
)

CONV_FIRST, NORM_FIRST = ('conv', 'norm', 'act'), ('norm', 'act', 'conv')
FACTORS = dict(LGC='condense_factor', SFR='sparse_factor')
NETWORKS = {
    'a': lambda: CondenseNetV2('a', out_indices=(0, 1, 2, 3, 4)),
    'cifar': lambda: CondenseNetV2(
        dict(
            depths=(2, 2),
            growth_rates=(8, 16),
            groups=4,
            condense_factor=4,
            sparse_factor=4,
            sfr_order=CONV_FIRST,
            stem_stride=1,
        )
    ),
    'v1': lambda: CondenseNetV2(
        dict(
            depths=(2, 2),
            growth_rates=(8, 16),
            groups=4,
            condense_factor=4,
            sparse_factor=None,
        )
    ),
    'shufflenet': lambda: SFRShuffleNetV2(0.5),
    'shufflenet-plus': lambda: ShuffleNetV2Plus(sparse_factor=8),
}


def norms_of(model):
    return [m for m in model.modules() if isinstance(m, _BatchNorm)]


def in_form(model, form):
    torch.manual_seed(0)
    randomise(model)
    for norm in norms_of(model):
        torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    for layer in sparse_layers(model).values():
        layer.set_progress(1)
    if form == 'condensed':
        condense_layers(model)
    return model.eval()


def assert_fused_is_same(model, *inputs):
    """Fuse a copy, which must give the same outputs, and return it."""
    fused = fuse_conv_bn(copy.deepcopy(model))
    actual, expected = fused(*inputs), model(*inputs)
    pairs = [(actual, expected)]
    if not isinstance(expected, torch.Tensor):
        assert len(actual) == len(expected)
        pairs = zip(actual, expected)
    for a, e in pairs:
        torch.testing.assert_close(a, e, rtol=0, atol=1e-5 * e.abs().max().item())
    return fused


def conv_module(kind, cls, in_channels, out_channels, order):
    conv_cfg = {'type': kind, FACTORS[kind]: 4}
    options = dict(groups=4, conv_cfg=conv_cfg, norm_cfg=dict(type='BN'), order=order)
    return cls(in_channels, out_channels, 1, **options)


@torch.no_grad()
@pytest.mark.parametrize('channels', [(16, 32), (32, 32), (32, 16)])
@pytest.mark.parametrize('kind', FACTORS)
@pytest.mark.parametrize(
    ('cls', 'order', 'form', 'norms'),
    [
        (ConvModule, CONV_FIRST, 'sparse', 0),
        (ConvModule, CONV_FIRST, 'condensed', 1),
        (ConvModule, NORM_FIRST, 'condensed', 1),
        (OrderedConvModule, CONV_FIRST, 'sparse', 0),
        (OrderedConvModule, CONV_FIRST, 'condensed', 1),
        (OrderedConvModule, NORM_FIRST, 'sparse', 1),
        (OrderedConvModule, NORM_FIRST, 'condensed', 1),
    ],
)
def test_conv_module(cls, order, form, norms, kind, channels):
    module = in_form(conv_module(kind, cls, *channels, order), form)
    fused = assert_fused_is_same(module, torch.randn(2, channels[0], 4, 4))
    assert len(norms_of(fused)) == norms


@torch.no_grad()
@pytest.mark.parametrize('order', [CONV_FIRST, NORM_FIRST])
@pytest.mark.parametrize('form', ['sparse', 'condensed'])
def test_reactivation(form, order):
    module = in_form(SFRModule(16, 16, 4, 4, order=order), form)
    assert_fused_is_same(module, torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4))


@torch.no_grad()
@pytest.mark.parametrize('form', ['sparse', 'condensed'])
@pytest.mark.parametrize('name', NETWORKS)
def test_network(name, form):
    model = in_form(NETWORKS[name](), form)
    assert_fused_is_same(model, torch.rand(1, 3, 64, 32))


@torch.no_grad()
@pytest.mark.parametrize('form', ['sparse', 'condensed'])
@pytest.mark.parametrize('name', ['classifier', 'detector'])
def test_model(name, form, tiny_configs):
    model = in_form(build_model(Config.fromfile(tiny_configs[name])), form)
    # MMDetection's benchmark fuses before it leaves the training mode.
    fused = fuse_conv_bn(copy.deepcopy(model).train()).eval()
    x = torch.rand(1, 3, 64, 64)
    for actual, expected in zip(fused.extract_feat(x), model.extract_feat(x)):
        atol = 1e-5 * expected.abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@torch.no_grad()
@pytest.mark.skipif(not ops.load(), reason=f'no kernels: {ops.describe()}')
@pytest.mark.parametrize('name', ['a', 'shufflenet'])
def test_condensed_networks_stay_on_the_kernels(name):
    model = in_form(NETWORKS[name](), 'condensed')
    fused = assert_fused_is_same(model, torch.rand(1, 3, 64, 32))
    report = kernel_report(fused)
    assert report
    assert set(report.values()) == {ops.describe()}


def test_a_norm_folded_on_the_fly_is_refused():
    module = in_form(conv_module('LGC', ConvModule, 16, 32, CONV_FIRST), 'condensed')
    module.turn_on_efficient_conv_bn_eval()
    with pytest.raises(InputError, match='leave efficient_conv_bn_eval off'):
        module(torch.randn(1, 16, 4, 4))


@torch.no_grad()
def test_what_was_fused_can_be_condensed():
    for build in (NETWORKS['shufflenet'], NETWORKS['cifar']):
        model = in_form(build(), 'sparse')
        x = torch.rand(1, 3, 64, 32)
        fused = fuse_conv_bn(copy.deepcopy(model))
        condense_layers(fused)
        for actual, expected in zip(fused(x), model(x)):
            atol = 1e-5 * expected.abs().max().item()
            torch.testing.assert_close(actual, expected, rtol=0, atol=atol)
