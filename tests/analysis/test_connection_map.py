"""What the connection maps say, against weights whose answer is known."""

import math

import pytest
import torch
from torch import nn
from toy import ToyModel

from mmcdnv2.analysis import block_maps, connection_strength, source_strength
from mmcdnv2.analysis.connection_map import BlockMap, LayerMap
from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.layers import LGC, SFR, condense_layers, sparse_layers

NAN = float('nan')


class Unit(nn.Module):
    """SFR without LGC, as in a ShuffleNet or in a DenseNet."""

    def __init__(self, channels, updated):
        super().__init__()
        self.conv = nn.Conv2d(updated, channels, 3)
        self.sfr = SFR(channels, updated, groups=4)


def make_net(progress=1.0, depths=(1, 3), growth_rates=(4, 8)):
    torch.manual_seed(0)
    arch = dict(depths=depths, growth_rates=growth_rates, groups=4)
    net = CondenseNetV2(dict(arch, condense_factor=4, sparse_factor=4, se_from=9))
    for layer in sparse_layers(net).values():
        layer.set_progress(progress)
    return net


def equal(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), equal_nan=True)
    return True


def test_strength_of_lgc():
    lgc = LGC(3, 4, groups=2, condense_factor=3)
    # Filters 0 and 2 are group 0, filters 1 and 3 group 1.
    weight = torch.tensor([[1.0, -2, 9], [3, 0, 5], [-5, 4, 9], [-1, 0, 7]])
    lgc.weight.data = weight[:, :, None, None]
    assert equal(connection_strength(lgc), [[3.0, 3, 9], [2, 0, 6]])
    lgc.mask[:] = torch.tensor([[True, False, False], [False, True, True]])
    # A weight of zero that is kept is not pruned.
    assert equal(connection_strength(lgc), [[3.0, NAN, NAN], [NAN, 0, 6]])


def test_strength_of_sfr():
    sfr = SFR(4, 2, groups=2, sparse_factor=2)
    # Rows are outputs; inputs 0 and 2 are group 0, inputs 1 and 3 group 1.
    weight = torch.tensor([[1.0, 2, 3, -4], [-5, 6, 8, 8]])
    sfr.weight.data = weight[:, :, None, None]
    sfr.mask[:] = torch.tensor([[True, True], [False, True]])
    assert equal(connection_strength(sfr), [[2.0, 6.5], [NAN, 7]])


@pytest.mark.parametrize('layer', [LGC(9, 8, groups=4), SFR(8, 9, groups=4)])
def test_condensed_layer_has_the_same_strength(layer):
    layer.set_progress(1)
    expected = connection_strength(layer)
    assert expected.isnan().sum() == 4 * 6
    torch.testing.assert_close(
        connection_strength(layer.condense()), expected, equal_nan=True
    )


def test_strength_of_sources():
    first = torch.tensor([[1.0, 3], [NAN, 4]])
    second = torch.tensor([[2.0, NAN, 6, NAN, NAN], [NAN, NAN, NAN, NAN, NAN]])
    layers = [LayerMap(name, name, s) for name, s in zip('ab', (first, second))]
    block = BlockMap('LGC', layers, [0, 2])
    assert block.sources == ['input', 'a']
    # Pruned weights count as zeros: (1 + 3 + 4) / 4, 2 / 4 and 6 / 6.
    assert equal(source_strength(block), [[2.0, NAN], [0.5, 1.0]])
    layers[1].strength[0, 2] = NAN
    assert equal(source_strength(block), [[2.0, NAN], [0.5, 0.0]])
    # Without known sources, one number for each layer: 2 / 10.
    block = BlockMap('LGC', layers, [0])
    assert equal(source_strength(block), [[2.0], [0.2]])


def test_sources_are_the_layers_that_computed_the_channels():
    """Mark each layer's reading of each source by hand and find the marks."""
    net = make_net(progress=0)
    values = torch.tensor([[1.0, NAN, NAN], [2, 3, NAN], [4, 5, 6]])
    # Stem 8, block 0 adds 4: the second block starts with 12 channels.
    bounds = [0, 12, 20, 28]
    for i in range(3):
        weight = net.get_parameter(f'blocks.1.{i}.lgc.conv.weight').data
        for start, end, value in zip(bounds, bounds[1:], values[i]):
            weight[:, start:end] = -value
    blocks = block_maps(net)
    assert [block.kind for block in blocks] == ['LGC', 'LGC', 'SFR', 'SFR']
    assert [block.starts for block in blocks] == 2 * [[0], [0, 12, 20]]
    assert blocks[0].sources == ['input']
    assert blocks[1].sources == ['input', '1.0', '1.1']
    names = [layer.name for layer in blocks[3].layers]
    assert names == [f'blocks.1.{i}.sfr.conv' for i in range(3)]
    assert equal(source_strength(blocks[1]), values.tolist())


@pytest.mark.parametrize(('progress', 'kept'), [(0.0, 4), (0.4, 2), (1.0, 1)])
def test_every_stage(progress, kept):
    for block in block_maps(make_net(progress)):
        for layer in block.layers:
            groups, columns = layer.strength.shape
            assert groups == 4
            in_each_group = (~layer.strength.isnan()).sum(1)
            assert (in_each_group == math.ceil(columns * kept / 4)).all()


def test_condensed_model_has_the_same_maps():
    net = make_net()
    expected = block_maps(net)
    condense_layers(net)
    blocks = block_maps(net)
    assert [b.starts for b in blocks] == [b.starts for b in expected]
    for block, wanted in zip(blocks, expected):
        torch.testing.assert_close(
            source_strength(block), source_strength(wanted), equal_nan=True
        )


def test_sfr_in_a_densenet_updates_known_sources():
    net = nn.Sequential(*(Unit(8, 16 + 8 * i) for i in range(3)))
    (block,) = block_maps(net)
    assert (block.kind, block.starts) == ('SFR', [0, 16, 24])
    net[1].sfr.weight.data[:16] = 1
    net[1].sfr.weight.data[16:] = 3
    assert source_strength(block_maps(net)[0])[1].tolist()[:2] == [1, 3]


def test_units_of_equal_width_have_no_known_sources():
    net = nn.Sequential(*(nn.Sequential(*(Unit(8, 8) for _ in 'ab')) for _ in 'abc'))
    blocks = block_maps(net)
    assert [block.starts for block in blocks] == 3 * [[0]]
    labels = [layer.label for block in blocks for layer in block.layers]
    assert labels == ['0.0', '0.1', '1.0', '1.1', '2.0', '2.1']


def test_growing_channels_alone_make_no_dense_block():
    # Channels double, but no layer computes just the difference.
    net = nn.Sequential(LGC(8, 16, groups=4), LGC(16, 32, groups=4), LGC(32, 64))
    (block,) = block_maps(net)
    assert block.starts == [0]


def test_layers_outside_of_lists():
    blocks = block_maps(ToyModel())
    assert [(b.kind, b.layers[0].label, b.starts) for b in blocks] == [
        ('LGC', 'lgc', [0]),
        ('SFR', 'sfr', [0]),
    ]
    assert block_maps(nn.Conv2d(3, 3, 1)) == []
