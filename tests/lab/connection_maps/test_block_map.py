"""Connection maps of weights with known results."""

import math
import re

import pytest
import torch
from conftest import ROOT, randomise
from torch import nn
from toy import ToyModel

from lab.connection_maps import (
    block_maps,
    connection_strength,
    dense_chains,
    source_strength,
)
from lab.connection_maps.block_map import BlockMap, LayerMap
from mmcdnv2.backbones import CondenseNetV2, SFRShuffleNetV2
from mmcdnv2.heads import LGCClsHead
from mmcdnv2.layers import LGC, SFR, condense_layers, sparse_layers

NAN = float('nan')


class Unit(nn.Module):
    """SFR without LGC, as in a ShuffleNet or a DenseNet."""

    def __init__(self, channels, updated):
        super().__init__()
        self.conv = nn.Conv2d(updated, channels, 3)
        self.sfr = SFR(channels, updated, groups=4)


def make_net(progress=1.0, depths=(1, 3)):
    torch.manual_seed(0)
    arch = dict(depths=depths, growth_rates=(4, 8), groups=4)
    net = CondenseNetV2(dict(arch, condense_factor=4, sparse_factor=4, se_from=9))
    randomise(net)
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
    # A kept weight of zero is not pruned.
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
    block = BlockMap('LGC', layers, {'input': 0, 'a': 2})
    # Pruned weights count as zeros: (1 + 3 + 4) / 4, 2 / 4 and 6 / 6.
    assert equal(source_strength([block]), [[2.0, NAN], [0.5, 1.0]])
    layers[1].strength[0, 2] = NAN
    assert equal(source_strength([block]), [[2.0, NAN], [0.5, 0.0]])
    # Without known sources, one value per layer: 2 / 10.
    block = BlockMap('LGC', layers, {'input': 0})
    assert equal(source_strength([block]), [[2.0], [0.2]])


def test_sources_are_the_layers_that_computed_the_channels():
    """Give each layer's weights of each source a unique value and find it.

    Layers of the second block read single layers of the first.
    """
    net = make_net(progress=0, depths=(2, 2))
    # The stem computes 8 channels, layers of block 0 add 4, of block 1 add 8.
    bounds = [0, 8, 12, 16, 24]
    values = torch.tensor(
        [[1.0, NAN, NAN, NAN], [2, 3, NAN, NAN], [4, 5, 6, NAN], [7, 8, 9, 10]]
    )
    names = ['0.0', '0.1', '1.0', '1.1']
    for name, row in zip(names, values):
        weight = net.get_parameter(f'blocks.{name}.lgc.conv.weight').data
        for start, end, value in zip(bounds, bounds[1:], row):
            weight[:, start:end] = -value
    blocks = block_maps(net)
    assert [block.kind for block in blocks] == ['LGC', 'LGC', 'SFR', 'SFR']
    sources = dict(zip(['input', *names], bounds[:4]))
    assert blocks[0].sources == blocks[2].sources == {'input': 0, '0.0': 8}
    assert blocks[1].sources == blocks[3].sources == sources
    found = [layer.name for layer in blocks[3].layers]
    assert found == [f'blocks.1.{i}.sfr.conv' for i in range(2)]
    assert dense_chains(blocks) == [blocks[:2], blocks[2:]]
    assert equal(source_strength(blocks[:2]), values.tolist())


def test_condensed_classifier_has_the_layers_as_sources():
    net = nn.Module()
    net.backbone, net.head = make_net(), LGCClsHead(10, 36)
    lgcs, _ = dense_chains(block_maps(net))
    assert [layer.label for layer in lgcs[-1].layers] == ['head.fc']
    assert list(lgcs[-1].sources) == ['input', '0.0', '1.0', '1.1', '1.2']


@pytest.mark.parametrize('arch', CondenseNetV2.arch_settings)
def test_every_condensenet_is_one_chain(arch):
    net = CondenseNetV2(arch)
    for chain in dense_chains(block_maps(net)):
        names = [layer.label for block in chain for layer in block.layers]
        assert len(names) == sum(CondenseNetV2.arch_settings[arch]['depths'])
        assert list(chain[-1].sources) == ['input', *names[:-1]]


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
    assert [b.sources for b in blocks] == [b.sources for b in expected]
    for chain, wanted in zip(dense_chains(blocks), dense_chains(expected)):
        torch.testing.assert_close(
            source_strength(chain), source_strength(wanted), equal_nan=True
        )


def test_sfr_in_dense_blocks_updates_known_sources():
    net = nn.Sequential(*(Unit(8, 16 + 8 * i) for i in range(3)))
    (block,) = block_maps(net)
    assert (block.kind, block.sources) == ('SFR', {'input': 0, '0': 16, '1': 24})
    net[1].sfr.weight.data[:16] = 1
    net[1].sfr.weight.data[16:] = 3
    assert source_strength(block_maps(net))[1].tolist()[:2] == [1, 3]


@pytest.mark.parametrize('deploy', [False, True])
def test_densenet_of_the_docs(deploy):
    """docs/connection_maps.md describes its sources; a transition ends a chain."""
    text = (ROOT / 'docs/plugin.md').read_text()
    code = re.search(r'```python\n(.*?)```', text, re.S)[1]
    # Another test registers it, and names can be registered only once.
    module = {'__name__': 'sfr_densenet'}
    exec(code.replace('@register_model\n', ''), module)
    arch = dict(growth_rate=16, depths=[3, 1, 2], init_channels=32)
    net = module['SFRDenseNet'](arch, deploy=deploy)
    blocks = block_maps(net)
    assert dense_chains(blocks) == [[block] for block in blocks]
    # Transitions halve 80 and 56 channels.
    starts = [list(block.sources.values()) for block in blocks]
    assert starts == [[0, 32, 48], [0], [0, 28]]
    for block in blocks:
        labels = [layer.label for layer in block.layers]
        assert list(block.sources) == ['input', *labels[:-1]]


def test_units_of_equal_width_have_no_known_sources():
    net = nn.Sequential(*(nn.Sequential(*(Unit(8, 8) for _ in 'ab')) for _ in 'abc'))
    blocks = block_maps(net)
    assert [block.sources for block in blocks] == 3 * [{'input': 0}]
    assert dense_chains(blocks) == [[block] for block in blocks]
    labels = [layer.label for block in blocks for layer in block.layers]
    assert labels == ['0.0', '0.1', '1.0', '1.1', '2.0', '2.1']


def test_shufflenet_has_no_known_sources():
    # Each stage has twice the width of the one before.
    blocks = block_maps(SFRShuffleNetV2())
    assert [block.sources for block in blocks] == 3 * [{'input': 0}]


def test_growing_channels_are_not_enough_for_a_dense_block():
    # Channels double, but no layer computes exactly the difference.
    net = nn.Sequential(LGC(8, 16, groups=4), LGC(16, 32, groups=4), LGC(32, 64))
    (block,) = block_maps(net)
    assert block.sources == {'input': 0}


def test_layers_outside_of_lists():
    blocks = block_maps(ToyModel())
    assert [(b.kind, b.layers[0].label, b.sources) for b in blocks] == [
        ('LGC', 'lgc', {'input': 0}),
        ('SFR', 'sfr', {'input': 0}),
    ]
    assert block_maps(nn.Conv2d(3, 3, 1)) == []
