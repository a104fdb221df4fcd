"""The comparison of outputs: what passes and what is rejected."""

import math

import pytest
import torch
from mmdet.apis import init_detector
from mmengine.model import BaseModel
from torch import nn

import mmcdnv2.deploy.condense as module
from mmcdnv2.builder import make_inputs
from mmcdnv2.deploy import condense_checkpoint
from mmcdnv2.deploy.proof import Call, largest_difference, record_calls
from mmcdnv2.errors import InputError
from mmcdnv2.layers import LGC

# The backbone's last layer.
LAST = 'backbone.blocks.2.1.sfr'


@pytest.fixture
def condense(tiny_configs, checkpoints, tmp_path):
    """Condense a tiny network from a changed checkpoint."""

    def run(name, change=lambda weights: None):
        content = torch.load(checkpoints[name], weights_only=True)
        change(content['state_dict'])
        path = tmp_path / 'changed.pth'
        torch.save(content, path)
        try:
            return condense_checkpoint(
                tiny_configs[name], str(path), tmp_path / 'out', input_shape=(64, 96)
            )
        except InputError:
            assert not [p for p in tmp_path.rglob('*') if p.is_file() and p != path]
            raise

    return run


@pytest.fixture
def wrong_copy(monkeypatch):
    """Change the condensed model before it is written."""
    right_copy = module._condensed_copy

    def change_by(change):
        def copy_and_change(model):
            model = right_copy(model)
            with torch.no_grad():
                change(model)
            return model

        monkeypatch.setattr(module, '_condensed_copy', copy_and_change)

    return change_by


@pytest.mark.parametrize('name', ['classifier', 'detector'])
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_rejects_nonfinite_checkpoints(condense, name, value):
    """A detector's last feature map is not the first to be compared."""

    def change(weights):
        weights[f'{LAST}.bn.bias'].fill_(value)

    with pytest.raises(InputError) as error:
        condense(name, change)
    message = str(error.value)
    assert 'changed.pth returns NaN' in message
    assert f'first in {LAST}.bn (BatchNorm2d)' in message


def test_rejects_nan_after_a_finite_map(condense):
    def change(weights):
        weights['neck.fpn_convs.1.conv.bias'].fill_(float('nan'))

    with pytest.raises(InputError, match='first in neck.fpn_convs.1.conv '):
        condense('detector', change)


def test_rejects_weights_that_are_all_nan(condense):
    def change(weights):
        for weight in weights.values():
            if weight.is_floating_point():
                weight.fill_(float('nan'))

    with pytest.raises(InputError, match='first in backbone.stem.conv '):
        condense('detector', change)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('name', [f'{LAST}.bn', 'neck.fpn_convs.1.conv'])
def test_rejects_a_nonfinite_condensed_model(condense, wrong_copy, name, value):
    def change(model):
        model.get_submodule(name).bias.fill_(value)

    wrong_copy(change)
    with pytest.raises(InputError) as error:
        condense('detector')
    message = str(error.value)
    assert 'The condensed model returns NaN' in message
    assert 'bug of mmcdnv2' in message
    assert f'first in {name} (' in message


class ChangesInPlace(BaseModel):
    """Changes its part's output in place."""

    def __init__(self):
        super().__init__()
        self.lgc = LGC(4, 4, groups=2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.lgc(inputs).zero_()


def test_recorded_outputs_are_copies():
    model, x = ChangesInPlace(), torch.randn(1, 4, 3, 3)
    (call,), _ = record_calls(model, x, [], 'a.pth')
    assert torch.equal(call.outputs[0], model.lgc(x))


def zero_a_map(weights):
    weights['neck.fpn_convs.0.conv.weight'].zero_()
    weights['neck.fpn_convs.0.conv.bias'].zero_()


def test_map_of_zeros(condense):
    assert condense('detector', zero_a_map).max_difference < 1e-5


def test_rejects_nonzeros_instead_of_zeros(condense, wrong_copy):
    def change(model):
        model.neck.fpn_convs[0].conv.bias[0] = 1e-9

    wrong_copy(change)
    with pytest.raises(InputError, match='differs from the sparse one by inf in neck'):
        condense('detector', zero_a_map)


@pytest.mark.parametrize(
    ('expected', 'given', 'difference'),
    [
        (
            [[2.0, 4.0], [1.0]],
            dict(a=(torch.tensor([2.0, 3.0]),), b=[torch.ones(1)]),
            0.25,
        ),
        ([[0.0, 0.0]], [torch.zeros(2)], 0),
        ([[0.0, 0.0]], [torch.tensor([0.0, 1e-9])], math.inf),
        ([[]], [torch.ones(0)], 0),
        ([[1.0]], [torch.ones(2)], math.inf),
        ([[1.0], [1.0]], [torch.ones(1)], math.inf),
        # Integers and bools are not compared; their inputs are.
        ([[1.0]], (None, torch.ones(1), torch.tensor([3])), 0),
    ],
)
def test_difference_of_nested_outputs(expected, given, difference):
    model = nn.Sequential(nn.Identity())
    call = Call('0', (given,), {}, list(map(torch.tensor, expected)))
    assert largest_difference(model, model, [call]) == (difference, '0')


def test_other_proposals_at_nearly_equal_scores(
    condense, wrong_copy, tiny_configs, tmp_path
):
    def change(weights):
        weights['rpn_head.rpn_cls.weight'].zero_()
        weights['rpn_head.rpn_cls.bias'].fill_(1)

    def differ_in_the_last_digits(model):
        nn.init.normal_(model.rpn_head.rpn_cls.weight, std=1e-7)

    wrong_copy(differ_in_the_last_digits)
    report = condense('detector', change)
    assert report.max_difference < 1e-5
    proposals = []
    for config, checkpoint in (
        (tiny_configs['detector'], tmp_path / 'changed.pth'),
        (report.config, report.checkpoint),
    ):
        model = init_detector(str(config), str(checkpoint), device='cpu')
        inputs, samples = make_inputs(model, model.cfg, input_shape=(64, 96))
        with torch.no_grad():
            features = model.extract_feat(inputs)
            proposals.append(model.rpn_head.predict(features, samples)[0].bboxes)
    assert not torch.allclose(*(boxes[:10] for boxes in proposals), atol=1)


@pytest.mark.parametrize(
    ('part', 'layer'),
    [
        ('neck', 'fpn_convs.1.conv'),
        ('rpn_head', 'rpn_reg'),
        ('roi_head.bbox_head', 'fc_cls'),
    ],
)
def test_rejects_a_difference_after_the_backbone(condense, wrong_copy, part, layer):
    def change(model):
        model.get_submodule(f'{part}.{layer}').bias += 0.1

    wrong_copy(change)
    with pytest.raises(InputError, match=f'differs from the sparse .* in {part}, '):
        condense('detector')
