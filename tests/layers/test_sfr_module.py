"""The reactivation as a module of its own."""

import pytest
import torch
from torch.nn.functional import hardswish

from mmcdnv2.layers import SFRModule, condense_layers


@torch.no_grad()
@pytest.mark.parametrize('order', [('conv', 'norm', 'act'), ('norm', 'act', 'conv')])
def test_adds_to_the_old_features(order):
    torch.manual_seed(0)
    settings = dict(groups=4, sparse_factor=3, order=order, act_cfg=dict(type='HSwish'))
    module = SFRModule(12, 20, **settings).eval()
    torch.nn.init.uniform_(module.bn.running_mean, -1, 1)
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
