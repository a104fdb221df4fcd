"""Converting the authors' checkpoints in all their forms."""

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from reference import (
    load_reference,
    official_converted,
    official_state_dict,
    reference_images,
)

from mmcdnv2.converters import convert_official
from mmcdnv2.errors import InputError
from mmcdnv2.layers import sparse_layers


@pytest.fixture(scope='module')
def pruned():
    """Return the authors' state dict of A after its schedule, and group masks."""
    state_dict = dict(official_state_dict('a'))
    arch, _, ours = convert_official(dict(state_dict=state_dict))
    model = build(arch)
    model.load_state_dict(ours)
    masks = {}
    names = [name for name in state_dict if name.endswith('_mask')]
    for name, layer in zip(names, sparse_layers(model).values()):
        layer.set_progress(1)
        layer.weight.data.fill_(1)
        state_dict[name] = layer.masked_weight().detach()
        masks[name] = layer.mask
    return state_dict, masks


def build(arch, deploy=False):
    cfg = Config.fromfile(ROOT / 'configs' / f'cdnv2_{arch}_8xb128_in1k.py')
    init_default_scope('mmpretrain')
    cfg.model.backbone.deploy = deploy
    return MODELS.build(cfg.model).eval()


def assert_gives_reference(checkpoint, deploy):
    arch, condensed, ours = convert_official(checkpoint)
    assert (arch, condensed) == ('a', deploy)
    model = build(arch, deploy)
    model.load_state_dict(ours)
    expected = load_reference('a')['progress']['0.50']['logits']['first8']
    with torch.no_grad():
        logits = model(reference_images())[0, :8]
    torch.testing.assert_close(logits, torch.tensor(expected), atol=1e-4, rtol=0)


def test_sparse(pruned):
    state_dict, _ = pruned
    prefixed = {f'module.{name}': value for name, value in state_dict.items()}
    assert_gives_reference(dict(state_dict=prefixed), deploy=False)


def test_averaged_masks(pruned):
    """In averaged masks, pruned entries are tiny and kept ones are rounded."""
    averaged = {
        name: value * 0.99999 + 1e-19 if name.endswith('_mask') else value
        for name, value in pruned[0].items()
    }
    other = {name: torch.zeros_like(value) for name, value in pruned[0].items()}
    checkpoint = dict(state_dict=other, state_dict_ema=averaged)
    assert_gives_reference(checkpoint, deploy=False)


def test_converted(pruned):
    converted = official_converted(*pruned)
    names = load_reference('a')['converted']['state_dict']
    assert {name: list(value.shape) for name, value in converted.items()} == dict(names)
    assert_gives_reference(dict(state_dict=converted), deploy=True)


def test_other_default_scope():
    with DefaultScope.overwrite_default_scope('mmengine'):
        arch, _, _ = convert_official(dict(state_dict=official_state_dict('a')))
    assert arch == 'a'


def test_rejects_incomplete_checkpoints():
    weights = dict(official_state_dict('a'))
    del weights['features.denseblock_5.denselayer_3.sfr.conv.weight']
    with pytest.raises(InputError, match='blocks.4.2.sfr.conv.weight'):
        convert_official(dict(state_dict=weights))
    del weights['fc.bias']
    with pytest.raises(InputError, match=r"lacks \['fc.bias'\]"):
        convert_official(dict(state_dict=weights))


@pytest.mark.parametrize(
    ('checkpoint', 'sentence'),
    [
        (dict(model={}), "have the key 'state_dict'"),
        (
            dict(state_dict={'layer1.0.conv1.weight': torch.ones(1)}),
            'not a checkpoint of',
        ),
        (
            dict(state_dict=dict(official_state_dict('a'), extra=torch.ones(1))),
            'extra is not a part of CondenseNetV2',
        ),
    ],
)
def test_rejects_other_checkpoints(checkpoint, sentence):
    with pytest.raises(InputError, match=sentence):
        convert_official(checkpoint)


def test_rejects_an_index_that_is_not_one_hot(pruned):
    converted = official_converted(*pruned)
    name = next(name for name in converted if name.endswith('sfr.index'))
    converted[name] = converted[name] * 2
    with pytest.raises(InputError, match='a single 1 in each row'):
        convert_official(dict(state_dict=converted))
