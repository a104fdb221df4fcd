"""How far back layers read, compared with values computed by hand."""

import numpy as np
import pytest
import torch
from conftest import randomise
from torch import nn

from lab.connection_maps import (
    block_maps,
    early_use,
    lgc_chains,
    measure_use,
    relative_strength,
    strength_by_distance,
)
from lab.connection_maps.block_map import BlockMap, LayerMap
from lab.connection_maps.source_use import QUANTITIES
from mmcdnv2.backbones import CondenseNetV2, SFRShuffleNetV2
from mmcdnv2.layers import LGC, condense_layers, sparse_layers

NAN = float('nan')


def make_chain(rows):
    """Return a chain whose sources have one channel each; NaN means pruned."""
    names = [str(i) for i in range(len(rows))]
    layers = [LayerMap(n, n, torch.tensor([row])) for n, row in zip(names, rows)]
    sources = {name: i for i, name in enumerate(['input', *names[:-1]])}
    return [BlockMap('LGC', layers, sources)]


def make_net(depths=(2, 3), progress=1.0, seed=0):
    torch.manual_seed(seed)
    arch = dict(depths=depths, growth_rates=(4, 8), groups=4, se_from=9)
    net = CondenseNetV2(dict(arch, condense_factor=4, sparse_factor=4))
    randomise(net)
    for layer in sparse_layers(net).values():
        layer.set_progress(progress)
    return net


def lgcs(net):
    return [layer for layer in net.modules() if isinstance(layer, LGC)]


def use_of(net):
    (chain,) = lgc_chains(block_maps(net))
    by_distance, early = strength_by_distance(chain), early_use(chain)
    together = measure_use(chain)
    assert tuple(together) == QUANTITIES
    assert list(together.values()) == [*by_distance.values(), early]
    return by_distance, early


def approx(value):
    return pytest.approx(value, rel=1e-5)


def test_values_by_hand():
    rows = [
        [5.0],
        [1.0, 9.0],
        # Means 2, 4, 1 and 4; pruned weights count as 0.
        [1.0, 2.0, 3.0],
        [8.0, NAN, 4.0, 4.0],
        [0.5, 1.0, 1.5, NAN, 2.0],
        [4.0, 2.0, 6.0, 0.0, 8.0, 4.0],
    ]
    chain = make_chain(rows)
    relative = relative_strength(chain)
    assert relative[3, :4].tolist() == [2, 0, 1, 1]
    assert relative[3, 4:].isnan().all()
    assert strength_by_distance(chain) == {
        'input': approx((0.5 + 2 + 0.5 + 1) / 4),
        '1 before': approx((1.5 + 1 + 2 + 1) / 4),
        # Distance 2 from the third layer on, distance 3 from the fourth.
        '2-3': approx((1 + 1 + 0 + 2 + 0 + 1.5 + 0) / 7),
        '4-6': approx((1 + 1.5 + 0.5) / 3),
        '7-10': None,
        '11 and more': None,
    }
    # Layers 4 and 5 read the input and layers 0 and 1.
    assert early_use(chain) == approx((0.5 + 1 + 1.5 + 1 + 0.5 + 1.5) / 6)


def test_every_distance_is_in_its_bin():
    """The last of thirteen layers reads only one source."""
    expected = ['input', *2 * ['11 and more'], *4 * ['7-10'], *3 * ['4-6']]
    expected += [*2 * ['2-3'], '1 before']
    for source, name in enumerate(expected):
        rows = [[1.0] * (i + 1) for i in range(13)]
        rows[-1] = [0.0] * 13
        rows[-1][source] = 1.0
        equal = strength_by_distance(make_chain(rows[:-1]))
        found = strength_by_distance(make_chain(rows))
        higher = [key for key in found if found[key] > (equal[key] or 0)]
        assert higher == [name]
        assert (early_use(make_chain(rows)) > 1) == (source <= 4)


def test_undefined_values_are_none():
    two = make_chain([[1.0], [1.0, 2.0]])
    assert set(strength_by_distance(two).values()) == {None}
    assert early_use(two) is None
    three = [[1.0], [1.0, 2.0], [1.0, 2.0, 3.0]]
    assert early_use(make_chain(three)) == approx(0.75)
    # The only layer with enough sources is pruned entirely.
    pruned = make_chain([*three[:2], 3 * [NAN]])
    assert set(strength_by_distance(pruned).values()) == {None}
    assert early_use(pruned) is None
    # One pruned layer does not affect the other.
    rows = [*three, 4 * [1.0], 5 * [NAN], [3.0, 3.0, 3.0, 1.0, 1.0, 1.0]]
    assert early_use(make_chain(rows)) == approx(1.5)


def test_equal_weights_give_ones():
    net = make_net(depths=(7, 7), progress=0)
    for layer in lgcs(net):
        nn.init.constant_(layer.weight, -0.3)
    by_distance, early = use_of(net)
    assert early == approx(1)
    assert list(by_distance.values()) == [approx(1)] * 6


@pytest.mark.parametrize('seed', range(5))
def test_scale_of_a_layer_does_not_matter(seed):
    net = make_net(seed=seed, progress=(0.2 * seed))
    by_distance, early = use_of(net)
    with torch.no_grad():
        for layer, factor in zip(lgcs(net), np.random.RandomState(seed).rand(5)):
            layer.weight.mul_(-10 * factor)
    scaled, early_scaled = use_of(net)
    assert early_scaled == approx(early)
    assert scaled == {
        name: value if value is None else approx(value)
        for name, value in by_distance.items()
    }


@pytest.mark.parametrize('seed', range(5))
def test_late_layers_that_read_early_features_more(seed):
    net = make_net(seed=seed, depths=(3, 3), progress=0)
    _, before = use_of(net)
    # The stem and two layers have 8 + 4 + 4 channels.
    with torch.no_grad():
        for layer in lgcs(net)[4:]:
            layer.weight[:, :16] *= 2
    _, after = use_of(net)
    # Three of six sources: less than doubled, because the mean also rises.
    assert before < after < 2 * before
    with torch.no_grad():
        for layer in lgcs(net)[4:]:
            layer.weight[:, :16] = 0
    assert use_of(net)[1] == 0


def test_condensed_network_has_the_same_values():
    net = make_net()
    expected = use_of(net)
    condense_layers(net)
    by_distance, early = use_of(net)
    assert early == approx(expected[1])
    assert by_distance['2-3'] == approx(expected[0]['2-3'])


def test_lgc_chains():
    assert [len(chain) for chain in lgc_chains(block_maps(make_net()))] == [2]
    assert lgc_chains(block_maps(SFRShuffleNetV2())) == []
    assert lgc_chains(block_maps(nn.Sequential(LGC(8, 8), LGC(8, 8)))) == []
    blocks = make_chain([[1.0], [1.0, 2.0]])
    # Separated by a transition.
    assert lgc_chains(blocks + blocks) == [blocks, blocks]
