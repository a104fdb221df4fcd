"""The authors' structure computes what ours does."""

import copy

import torch
from conftest import randomise_norms

from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.benchmark.authors_structure import GatherFirstLGC, with_authors_structure
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
def test_authors_structure_gives_the_same_output():
    torch.manual_seed(0)
    model = CondenseNetV2(TINY, out_indices=(0, 1))
    randomise_norms(model)
    for layer in sparse_layers(model).values():
        layer.set_progress(1)
    model.switch_to_deploy()
    model.eval()
    before = copy.deepcopy(model.state_dict())
    theirs = with_authors_structure(model)
    x = torch.randn(2, 3, 16, 16)
    for expected, actual in zip(model(x), theirs(x)):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)

    layer = theirs.blocks[1].get_submodule('1')
    assert isinstance(layer.lgc, GatherFirstLGC)
    # Two groups of four each read half of the features, so they are copied.
    assert layer.lgc.norm.num_features == 2 * layer.sfr.conv.places.size(0)
    assert not [m for m in theirs.modules() if isinstance(m, CondensedSFR)]
    # The condensed model is as it was.
    assert before.keys() == model.state_dict().keys()
