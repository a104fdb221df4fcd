"""Which checkpoints a runner that tests takes, and what it evaluates by."""

import json

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from toy import ToyModel

from mmcdnv2.checkpoint import unwrap_model
from mmcdnv2.engine import ExactRunner, TrainingRunner
from mmcdnv2.errors import InputError, UntrustedError


class Replace(Hook):
    """Put other weights in, as hooks that average do."""

    def after_load_checkpoint(self, runner, checkpoint):
        checkpoint['state_dict'] = checkpoint['other']


class Opaque:
    """What only a trusted checkpoint may hold."""


@pytest.fixture
def make_runner(tmp_path):
    def make(*hooks):
        model = ToyModel()
        name = f'{tmp_path.name}_{id(model)}'
        options = dict(work_dir=str(tmp_path), experiment_name=name)
        return ExactRunner(model, custom_hooks=list(hooks), **options)

    return make


def test_loads_what_the_hooks_leave(make_runner, tmp_path):
    weights, others = ToyModel().state_dict(), ToyModel().state_dict()
    path = str(tmp_path / 'weights.pth')
    for content, hooks, expected in (
        (weights, (), weights),
        (dict(state_dict=weights, other=others), (Replace(),), others),
        # What does not fit may be made to fit.
        (dict(state_dict=dict(x=torch.ones(1)), other=others), (Replace(),), others),
    ):
        torch.save(content, path)
        runner = make_runner(*hooks)
        runner.load_checkpoint(path)
        for name, value in runner.model.state_dict().items():
            assert torch.equal(value, expected[name])


class ToyTTAModel(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


@pytest.mark.parametrize(
    'wrap',
    [
        ToyModel,
        lambda: torch.nn.DataParallel(ToyModel()),
        lambda: ToyTTAModel(ToyModel()),
        lambda: torch.nn.DataParallel(ToyTTAModel(ToyModel())),
    ],
)
@pytest.mark.parametrize('kind', [ExactRunner, TrainingRunner])
def test_wrappers_and_their_prefix(tmp_path, wrap, kind):
    weights, model = ToyModel().state_dict(), wrap()
    saved = torch.nn.DataParallel(ToyModel())
    saved.module.load_state_dict(weights)
    path = str(tmp_path / 'weights.pth')
    torch.save(dict(state_dict=saved.state_dict()), path)
    options = dict(work_dir=str(tmp_path), experiment_name=f'{id(model)}')
    runner = kind(model, **options)
    runner.load_checkpoint(path)
    for name, value in unwrap_model(model).state_dict().items():
        assert torch.equal(value, weights[name])


def test_weights_of_another_model_are_refused(make_runner, tmp_path):
    weights = ToyModel().state_dict()
    path = str(tmp_path / 'weights.pth')
    missing = {k: v for k, v in weights.items() if k != 'lgc.bias'}
    shape = dict(weights, **{'lgc.bias': torch.ones(9)})
    for wrong in (missing, shape, dict(weights, more=torch.ones(1))):
        torch.save(dict(state_dict=weights, other=wrong), path)
        with pytest.raises(InputError, match='does not hold the weights'):
            make_runner(Replace()).load_checkpoint(path)


def test_more_than_tensors_only_if_trusted(make_runner, tmp_path):
    path = str(tmp_path / 'weights.pth')
    torch.save(dict(state_dict=ToyModel().state_dict(), extra=Opaque()), path)
    runner = make_runner()
    with pytest.raises(UntrustedError):
        runner.load_checkpoint(path)
    runner.trust_checkpoint = True
    assert 'extra' in runner.load_checkpoint(path)


@pytest.mark.parametrize('several', [False, True])
@pytest.mark.parametrize('first', [0, '0', 1, 5])
def test_perfect_detections_are_perfect(make_runner, tmp_path, first, several):
    """Pycocotools takes a match with an annotation of the id 0 for none."""
    boxes = [[k, 2 * k, 20 + k, 25] for k in (1, 2, 3, 4)]
    annotations = [
        dict(image_id=7, category_id=1, bbox=box, area=box[2] * box[3], iscrowd=0)
        for box in boxes
    ]
    for i, each in enumerate(annotations):
        each['id'] = type(first)(int(first) + i)
    content = dict(
        images=[dict(id=7, file_name='a.jpg', width=64, height=48)],
        annotations=annotations,
        categories=[dict(id=1, name='cat')],
    )
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(content))
    metric = dict(type='mmdet.CocoMetric', ann_file=str(path))
    evaluator = make_runner().build_evaluator([metric] * 2 if several else metric)
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes])
    detections = dict(
        bboxes=corners.float(), labels=torch.zeros(4).long(), scores=torch.ones(4)
    )
    evaluator.metrics[-1].dataset_meta = dict(classes=('cat',))
    sample = dict(img_id=7, ori_shape=(48, 64), pred_instances=detections)
    evaluator.metrics[-1].process({}, [sample])
    assert evaluator.metrics[-1].evaluate(1)['coco/bbox_mAP'] == 1
    assert json.loads(path.read_text()) == content
