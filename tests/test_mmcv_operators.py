"""The compiled operators of mmcv, whatever build they come from, against torchvision.

The set-up compiles mmcv's sources joined (see .dev/join_mmcv_sources.py).
"""

import pytest
import torch
from mmcv.ops import (
    batched_nms,
    deform_conv2d,
    modulated_deform_conv2d,
    nms,
    roi_align,
)
from torchvision import ops


@pytest.fixture
def boxes():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(200, 2, generator=generator) * 40
    sizes = torch.rand(200, 2, generator=generator) * 20 + 1
    return torch.cat([corners, corners + sizes], 1)


@pytest.fixture
def scores():
    return torch.rand(200, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def rois(boxes):
    return torch.cat([(torch.arange(200) % 2).float()[:, None], boxes], 1)


def test_nms(boxes, scores):
    expected = ops.nms(boxes, scores, 0.4)
    assert 0 < len(expected) < len(boxes)
    kept, index = nms(boxes, scores, 0.4)
    assert torch.equal(index, expected)
    assert torch.equal(kept, torch.cat([boxes, scores[:, None]], 1)[expected])


def test_batched_nms(boxes, scores):
    classes = torch.arange(200) % 3
    expected = ops.batched_nms(boxes, scores, classes, 0.4)
    _, index = batched_nms(boxes, scores, classes, dict(type='nms', iou_threshold=0.4))
    assert torch.equal(index, expected)
    assert len(index) > len(ops.nms(boxes, scores, 0.4))


@pytest.mark.parametrize('aligned', [False, True])
def test_roi_align(rois, aligned):
    features = torch.randn(2, 5, 30, 32, requires_grad=True)
    weight = torch.randn(200, 5, 7, 7)
    outputs, gradients = [], []
    for output in (
        roi_align(features, rois, (7, 7), 0.5, 2, 'avg', aligned),
        ops.roi_align(features, rois, (7, 7), 0.5, 2, aligned),
    ):
        outputs.append(output)
        gradients.extend(torch.autograd.grad((output * weight).sum(), features))
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('modulated', [False, True])
def test_deformable_convolution(modulated):
    shapes = [(2, 4, 9, 8), (2, 36, 9, 8), (6, 2, 3, 3), (2, 18, 9, 8), (6,)]
    tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
    x, offset, weight, mask, bias = tensors
    if modulated:
        output = modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1, 1, 2, 2)
        expected = ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    else:
        tensors = tensors[:3]
        output = deform_conv2d(x, offset, weight, 1, 1, 1, 2, 2)
        expected = ops.deform_conv2d(x, offset, weight, padding=1)
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
    factor = torch.randn_like(output)
    got = torch.autograd.grad((output * factor).sum(), tensors)
    wanted = torch.autograd.grad((expected * factor).sum(), tensors)
    for one, other in zip(got, wanted):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
