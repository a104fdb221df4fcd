"""ConvModule with its children in the order in which they run."""

import pytest
import torch
from mmcv.cnn import ConvModule

from mmcdnv2.layers import OrderedConvModule


def build(cls, order, **kwargs):
    torch.manual_seed(0)
    return cls(8, 8, 3, padding=1, order=order, **kwargs).eval()


@pytest.mark.parametrize(
    ('order', 'names'),
    [
        (('conv', 'norm', 'act'), ['conv', 'bn', 'activate']),
        (('norm', 'act', 'conv'), ['bn', 'activate', 'conv']),
        (('act', 'conv', 'norm'), ['activate', 'conv', 'bn']),
    ],
)
def test_children_come_in_their_order(order, names):
    module = build(OrderedConvModule, order, norm_cfg=dict(type='BN'))
    assert [name for name, _ in module.named_children()] == names
    assert list(module.children()) == [getattr(module, name) for name in names]


@torch.no_grad()
def test_all_else_is_mmcvs():
    options = dict(norm_cfg=dict(type='BN'), padding_mode='reflect')
    for order in (('norm', 'act', 'conv'), ('conv', 'norm', 'act')):
        theirs, ours = (
            build(c, order, **options) for c in (ConvModule, OrderedConvModule)
        )
        assert len(list(ours.children())) == len(list(theirs.children()))
        # Optimizers go by the parameters' numbers.
        assert [n for n, _ in ours.named_parameters()] == [
            n for n, _ in theirs.named_parameters()
        ]
        assert list(ours.state_dict()) == list(theirs.state_dict())
        x = torch.randn(1, 8, 4, 4)
        assert torch.equal(ours(x), theirs(x))
    bare = build(OrderedConvModule, ('norm', 'act', 'conv'), act_cfg=None)
    assert list(bare.children()) == [bare.conv]
