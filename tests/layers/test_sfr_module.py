"""SFRModule: outputs and initialisation."""

import pytest
import torch
from conftest import randomise
from torch.nn.functional import hardswish

from mmcdnv2.errors import InputError
from mmcdnv2.layers import SFRModule, condense_layers

ORDERS = [('conv', 'norm', 'act'), ('norm', 'act', 'conv')]


@torch.no_grad()
@pytest.mark.parametrize('order', ORDERS)
def test_adds_to_the_old_features(order):
    torch.manual_seed(0)
    settings = dict(groups=4, sparse_factor=3, order=order, act_cfg=dict(type='HSwish'))
    module = SFRModule(12, 20, **settings).eval()
    randomise(module)
    module.conv.set_progress(1)
    old, new = torch.randn(2, 20, 5, 5), torch.randn(2, 12, 5, 5)
    if order[0] == 'conv':
        expected = old + hardswish(module.bn(module.conv(new)))
    else:
        expected = old + module.conv(hardswish(module.bn(new)))
    torch.testing.assert_close(module(old, new), expected)
    assert module.conv.bias is None

    fresh = SFRModule(12, 20, deploy=True, **settings).eval()
    fresh.load_state_dict(module.state_dict())
    condense_layers(module)
    for condensed in (module, fresh):
        torch.testing.assert_close(condensed(old, new), expected)


@pytest.mark.parametrize('act', ['ReLU', 'HSwish'])
@pytest.mark.parametrize('order', ORDERS)
def test_starts_near_the_identity_and_learns(order, act):
    torch.manual_seed(0)
    settings = dict(groups=4, sparse_factor=4, order=order, act_cfg=dict(type=act))
    module = SFRModule(12, 20, **settings).train()
    old, new = torch.randn(8, 20, 6, 6), torch.randn(8, 12, 6, 6)
    update = (module(old, new) - old).abs().mean().item()
    assert update == 0 if order[0] == 'norm' else 0 < update < 0.01
    released = SFRModule(12, 20, sfr_init='released', **settings).train()
    assert (released(old, new) - old).abs().mean() > 0.2

    # The target is the old features changed by the new ones.
    target = old + new.repeat(1, 2, 1, 1)[:, :20]
    optimizer = torch.optim.SGD(module.parameters(), 0.1, 0.9)
    losses = []
    for _ in range(150):
        loss = (module(old, new) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # A ReLU after the norm can only add.
    assert losses[-1] < (0.65 if order[0] == 'conv' else 0.4) * losses[0]


@pytest.mark.parametrize('order', ORDERS)
def test_released_init_is_that_of_mmcv(order):
    module = SFRModule(12, 20, order=order, sfr_init='released')
    assert (module.norm.weight == 1).all()
    assert module.conv.weight.std() > 0.1


def test_init_with_a_norm_without_weights():
    norm_cfg = dict(type='BN', affine=False)
    module = SFRModule(12, 20, order=('norm', 'act', 'conv'), norm_cfg=norm_cfg)
    old = torch.randn(1, 20, 5, 5)
    assert torch.equal(module(old, torch.randn(1, 12, 5, 5)), old)


def test_rejects_unknown_init():
    sentence = r"one of \('identity', 'released'\), got 'zero'"
    with pytest.raises(InputError, match=sentence):
        SFRModule(12, 20, sfr_init='zero')
