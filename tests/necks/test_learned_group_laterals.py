"""Learned group laterals, alone and in front of MMDetection's necks."""

import pytest
import torch
from conftest import randomise
from kernel_networks import assert_same, fallback, uses_kernels
from mmengine.registry import MODELS, init_default_scope

from mmcdnv2 import ops
from mmcdnv2.errors import InputError
from mmcdnv2.layers import LGCModule, condense_layers, kernel_report, sparse_layers
from mmcdnv2.necks import LearnedGroupLaterals

FPN = dict(type='FPN', in_channels=[16, 16, 16], out_channels=8, num_outs=4)
NECKS = (
    FPN,
    dict(FPN, type='PAFPN'),
    dict(type='CSPNeXtPAFPN', in_channels=[16, 16, 16], out_channels=8),
)
CHANNELS = (20, 37, 50)


def maps(channels=CHANNELS, size=24):
    torch.manual_seed(1)
    return tuple(
        torch.randn(2, c, size >> i, size >> i) for i, c in enumerate(channels)
    )


def finished(module):
    randomise(module)
    for layer in sparse_layers(module).values():
        layer.set_progress(1)
    return module.eval()


@torch.no_grad()
@pytest.mark.parametrize('neck', NECKS, ids=lambda neck: neck['type'])
def test_in_front_of_the_necks(neck):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    laterals = dict(
        type='LearnedGroupLaterals', in_channels=CHANNELS, out_channels=16, groups=4
    )
    sparse = finished(MODELS.build([laterals, neck]))
    condensed = MODELS.build([dict(laterals, deploy=True), neck]).eval()
    condensed.load_state_dict(sparse.state_dict())
    assert not sparse_layers(condensed)
    expected = sparse(maps())
    assert_same(condensed(maps()), expected)
    assert_same(fallback(condensed, maps()), expected)


@torch.no_grad()
@pytest.mark.skipif(not ops.load(), reason=f'no kernels here: {ops.describe()}')
@pytest.mark.parametrize('act', ['ReLU', 'HSwish'])
@pytest.mark.parametrize('order', [('norm', 'act', 'conv'), ('conv', 'norm', 'act')])
def test_runs_on_the_kernel(order, act):
    torch.manual_seed(0)
    module = LGCModule(
        37, 24, groups=4, condense_factor=3, order=order, act_cfg=dict(type=act)
    )
    finished(module)
    # Whole vectors of pixels, some left over, fewer than one.
    inputs = [torch.randn(2, 37, *size) for size in ((16, 16), (9, 13), (2, 3))]
    expected = [module(x) for x in inputs]
    condense_layers(module)
    module.eval()
    for x, output in zip(inputs, expected):
        assert uses_kernels(module, x)
        assert_same([module(x)], [output])
        assert_same([fallback(module, x)], [output])
        x = x.contiguous(memory_format=torch.channels_last)
        assert_same([module(x)], [output])
    assert kernel_report(module) == {'': ops.describe()}


@torch.no_grad()
def test_empty_maps_and_batches():
    module = LGCModule(16, 8, groups=4, deploy=True).eval()
    for shape in ((0, 16, 4, 4), (1, 16, 0, 4)):
        assert module(torch.rand(shape)).shape == (shape[0], 8, *shape[2:])


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(out_channels=[16, 16]), 'one for each of the 3 in_channels'),
        (dict(out_channels=18), 'cannot split 18 output channels into 4'),
        (dict(condense_factor=21), r'must be in \[1, 20\], got 21'),
    ],
)
def test_bad_arguments(settings, message):
    settings = dict(dict(in_channels=CHANNELS, out_channels=16, groups=4), **settings)
    with pytest.raises(InputError, match=message):
        LearnedGroupLaterals(**settings)


def test_maps_that_do_not_fit():
    neck = LearnedGroupLaterals(CHANNELS, 16, groups=4)
    with pytest.raises(InputError, match=r'gives maps of \[20, 37, 49\] channels'):
        neck(maps((20, 37, 49)))
    with pytest.raises(InputError, match=r'gives maps of \[20, 37\] channels'):
        neck(maps((20, 37)))
