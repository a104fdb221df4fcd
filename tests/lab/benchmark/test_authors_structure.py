"""The authors' structure gives the same output as ours."""

import copy

import torch
from conftest import randomise
from torch import nn

from lab.benchmark.authors_structure import (
    ComposedHardswish,
    FloatMaskConv2d,
    GatherFirstLGC,
    condensed_as_the_authors,
    trained_as_the_authors,
)
from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.layers import CondensedSFR, sparse_layers

TINY = dict(
    depths=(1, 2),
    growth_rates=(8, 16),
    groups=4,
    condense_factor=2,
    sparse_factor=4,
    se_from=1,
)


@torch.no_grad()
def test_condensed_gives_the_same_output():
    torch.manual_seed(0)
    model = CondenseNetV2(TINY, out_indices=(0, 1))
    randomise(model)
    for layer in sparse_layers(model).values():
        layer.set_progress(1)
    model.switch_to_deploy()
    model.eval()
    before = copy.deepcopy(model.state_dict())
    theirs = condensed_as_the_authors(model)
    x = torch.randn(2, 3, 16, 16)
    for expected, actual in zip(model(x), theirs(x)):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)

    layer = theirs.blocks[1].get_submodule('1')
    assert isinstance(layer.lgc, GatherFirstLGC)
    # Four groups each read half of the features, so features are duplicated.
    assert layer.lgc.norm.num_features == 2 * layer.sfr.conv.places.size(0)
    assert not [m for m in theirs.modules() if isinstance(m, CondensedSFR)]
    # The condensed model is unchanged.
    assert before.keys() == model.state_dict().keys()


def test_trained_gives_the_same_output():
    torch.manual_seed(0)
    backbone = CondenseNetV2('a').train()
    x = torch.randn(2, 3, 64, 64)
    expected = backbone(x)[0]
    theirs = trained_as_the_authors(backbone)
    torch.testing.assert_close(theirs(x)[0], expected)

    kinds = {type(module) for module in theirs.modules()}
    assert {ComposedHardswish, FloatMaskConv2d} <= kinds
    assert not sparse_layers(theirs)
    assert nn.Hardswish not in kinds
    assert sparse_layers(backbone)
