"""OrderedConvModule: the order of its children."""

import pytest
import torch
from mmcv.cnn import ConvModule

from mmcdnv2.errors import InputError
from mmcdnv2.layers import LGCModule, OrderedConvModule, SFRModule


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
def test_children_are_in_execution_order(order, names):
    module = build(OrderedConvModule, order, norm_cfg=dict(type='BN'))
    assert [name for name, _ in module.named_children()] == names
    assert list(module.children()) == [getattr(module, name) for name in names]


@torch.no_grad()
def test_otherwise_equals_mmcv():
    options = dict(norm_cfg=dict(type='BN'), padding_mode='reflect')
    for order in (('norm', 'act', 'conv'), ('conv', 'norm', 'act')):
        theirs, ours = (
            build(c, order, **options) for c in (ConvModule, OrderedConvModule)
        )
        assert len(list(ours.children())) == len(list(theirs.children()))
        # Optimizer states refer to parameters by position.
        assert [n for n, _ in ours.named_parameters()] == [
            n for n, _ in theirs.named_parameters()
        ]
        assert list(ours.state_dict()) == list(theirs.state_dict())
        x = torch.randn(1, 8, 4, 4)
        assert torch.equal(ours(x), theirs(x))
    bare = build(OrderedConvModule, ('norm', 'act', 'conv'), act_cfg=None)
    assert list(bare.children()) == [bare.conv]


@torch.no_grad()
@pytest.mark.parametrize('kind', ['ReLU', 'HSwish'])
def test_a_leading_activation_does_not_change_its_input(kind):
    act_cfg = dict(type=kind)
    x = torch.randn(1, 8, 4, 4)
    before = x.clone()
    for order in (('act', 'norm', 'conv'), ('act', 'conv', 'norm')):
        options = dict(order=order, act_cfg=act_cfg)
        build(OrderedConvModule, norm_cfg=dict(type='BN'), **options)(x)
        LGCModule(8, 8, **options).eval()(x)
        SFRModule(8, 8, **options).eval()(torch.zeros(1, 8, 4, 4), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    'order', [(), ('conv', 'act'), ('conv', 'norm', 'norm'), 'act']
)
def test_rejects_other_orders(order):
    for build_it in (
        lambda: OrderedConvModule(8, 8, 1, order=order),
        lambda: LGCModule(8, 8, order=order),
        lambda: SFRModule(8, 8, order=order),
    ):
        with pytest.raises(InputError, match="'conv', 'norm' and 'act' once each, got"):
            build_it()
