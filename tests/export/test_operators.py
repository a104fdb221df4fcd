"""The functions of standard operators against what PyTorch computes."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

from mmcdnv2.export.operators import region_features, select_boxes  # noqa: E402
from mmcdnv2.export.tracing import trace  # noqa: E402


class Select(nn.Module):
    def __init__(self, *settings):
        super().__init__()
        self.settings = settings

    def forward(self, boxes, scores):
        return select_boxes(boxes, scores, *self.settings)


class Regions(nn.Module):
    def __init__(self, *settings):
        super().__init__()
        self.settings = settings

    def forward(self, fine, coarse, regions, levels):
        return region_features((fine, coarse), regions, levels, *self.settings)


def run(model, **inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    inputs = {name: value.numpy() for name, value in inputs.items()}
    return [torch.from_numpy(each) for each in session.run(None, inputs)]


def random_boxes(batch, number):
    corners = torch.rand(batch, number, 2) * 60
    return torch.cat([corners, corners + 1 + torch.rand(batch, number, 2) * 30], -1)


@pytest.mark.parametrize(
    ('batch', 'classes', 'number', 'threshold'),
    [(1, 1, 300, 0.1), (3, 4, 40, 0.3), (2, 2, 15, 2.0), (2, 1, 5, -1.0)],
)
def test_selects_boxes(batch, classes, number, threshold):
    torch.manual_seed(number)
    boxes, scores = random_boxes(batch, number), torch.rand(batch, classes, number)
    module = Select(0.4, threshold, 20)
    model = trace(module, dict(boxes=boxes, scores=scores), ['index', 'value'])
    assert {node.domain for node in model.graph.node} == {''}
    index, value = run(model, boxes=boxes, scores=scores)
    expected_index, expected = module(boxes, scores)
    assert torch.equal(index, expected_index)
    assert torch.equal(value, expected)
    # By hand: all that is returned passes, falls, and leaves out what overlaps.
    for i in range(batch):
        count = int((value[i] > -torch.inf).sum())
        assert count == 0 if threshold == 2 else count > 0
        assert (value[i, :count] > threshold).all()
        assert (value[i, :count].diff() <= 0).all()
        assert (value[i, count:] == -torch.inf).all()
        assert (index[i, count:] == 0).all()


def test_samples_regions_level_by_level():
    torch.manual_seed(0)
    fine, coarse = torch.randn(2, 3, 20, 24), torch.randn(2, 3, 10, 12)
    image = torch.tensor([0.0, 1, 1, 0, 1])[:, None]
    regions = torch.cat([image, random_boxes(1, 5)[0]], 1)
    levels = torch.tensor([1, 0, 1, 1, 0])
    inputs = dict(fine=fine, coarse=coarse, regions=regions, levels=levels)
    for sampling_ratio, aligned in ((0, True), (2, False)):
        module = Regions(7, (0.25, 0.125), sampling_ratio, aligned)
        model = trace(module, inputs, ['features', 'order'])
        features, order = run(model, **inputs)
        assert order.tolist() == [1, 4, 0, 2, 3]
        torch.testing.assert_close(features, module(*inputs.values())[0])
    # All regions may be of one level.
    inputs['levels'] = torch.ones(5, dtype=torch.long)
    features, order = run(model, **inputs)
    assert order.tolist() == list(range(5))
    torch.testing.assert_close(features, module(*inputs.values())[0])


def test_graph_is_for_old_runtimes_and_names_no_paths():
    boxes, scores = random_boxes(1, 4), torch.rand(1, 2, 4)
    module = Select(0.5, 0.5, 3)
    model = trace(module, dict(boxes=boxes, scores=scores), ['index', 'value'])
    onnx.checker.check_model(model)
    assert model.ir_version == 8
    text = model.SerializeToString()
    assert b'/' not in text.replace(b'prepare/', b'') or b'.py' not in text
    assert not np.any([len(node.doc_string) for node in model.graph.node])
