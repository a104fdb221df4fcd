"""LGCClsHead."""

import logging

import pytest
import torch
from mmengine.registry import init_default_scope

from mmcdnv2.errors import InputError
from mmcdnv2.heads import LGCClsHead


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@torch.no_grad()
def test_is_linear_then_keeps_the_strongest_half():
    torch.manual_seed(0)
    head = LGCClsHead(5, 9)
    x = torch.randn(3, 9)
    weight = head.fc.weight.flatten(1)
    torch.testing.assert_close(head((x,)), x @ weight.t() + head.fc.bias)

    head.fc.set_progress(0.49)
    assert head.fc.kept == 9
    head.fc.set_progress(0.5)
    kept = weight.abs().sum(0).topk(5).indices
    expected = x[:, kept] @ weight[:, kept].t() + head.fc.bias
    torch.testing.assert_close(head((x,)), expected)

    head.switch_to_deploy()
    assert head.fc.weight.numel() == 25
    torch.testing.assert_close(head((x,)), expected)
    fresh = LGCClsHead(5, 9, deploy=True)
    assert fresh.deploy
    fresh.load_state_dict(head.state_dict())
    torch.testing.assert_close(fresh((x,)), expected)


def test_initial_weights():
    torch.manual_seed(0)
    head = LGCClsHead(100, 200)
    logging.disable(logging.INFO)
    head.init_weights()
    logging.disable(logging.NOTSET)
    assert head.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (head.fc.bias == 0).all()


def test_rejects_bad_factor():
    with pytest.raises(InputError, match='condense_factor must be in'):
        LGCClsHead(5, 9, condense_factor=10)
