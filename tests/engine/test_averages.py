"""Averages inside a model keep the masks of what they are an average of."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel, ExponentialMovingAverage
from torch import nn
from toy import ToyModel, make_runner

from mmcdnv2.errors import InputError
from mmcdnv2.layers import LGC, SFR, condense_layers, sparse_layers


class MaskRecorder(Hook):
    """See in every iteration whether the masks of a copy are its original's."""

    priority = 'LOWEST'

    def __init__(self, pairs):
        self.pairs, self.agree = pairs, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for copy, original in self.pairs.items():
            copies = sparse_layers(runner.model.get_submodule(copy))
            originals = sparse_layers(runner.model.get_submodule(original))
            assert copies.keys() == originals.keys() and copies
            self.agree.append(
                all(
                    torch.equal(copies[name].mask, originals[name].mask)
                    for name in copies
                )
            )


class MeanTeacher(BaseModel):
    """Student and teacher, as mmdet's semi-supervised detectors have them."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = ToyModel(), ToyModel()
        self.teacher.requires_grad_(False)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.student(inputs, data_samples, mode)


class HandMade(MeanTeacher):
    """A teacher that the model itself averages, as mmpretrain's CAE does."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        pairs = zip(self.teacher.parameters(), self.student.parameters())
        for average, parameter in pairs:
            average.data.lerp_(parameter.data, 0.1)
        return super().forward(inputs, data_samples, mode)


class MomentumEncoder(BaseModel):
    """A momentum encoder, as mmpretrain's BYOL and MoCo have it."""

    def __init__(self, update_buffers, twins=False):
        super().__init__()
        self.backbone = nn.Sequential(LGC(8, 8, groups=4), nn.ReLU())
        self.neck = SFR(8, 16, groups=4)
        self.momentum_net = ExponentialMovingAverage(
            nn.Sequential(self.backbone, self.neck),
            momentum=0.1,
            update_buffers=update_buffers,
        )
        if twins:
            self.other = SFR(8, 16, groups=4)
        # The average starts elsewhere and follows slowly, now and then.
        for parameter in self.momentum_net.parameters():
            nn.init.normal_(parameter)
        self.momentum_net.steps += 1
        self.calls = 0

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if self.calls % 4 == 3:
            self.momentum_net.update_parameters(nn.Sequential(self.backbone, self.neck))
        self.calls += 1
        out = self.neck(self.backbone(torch.stack(inputs)))
        return dict(loss_toy=out.square().mean())


def train(tmp_path, model, pairs, hooks=(), **options):
    """Train; return whether the masks agreed and what was said."""
    recorder = MaskRecorder(pairs)
    hook = dict(type='SparsificationHook', **options)
    make_runner(tmp_path, hooks=[*hooks, recorder], model=model, hook=hook).train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    return recorder.agree, log


@pytest.mark.parametrize('skip_buffer', [True, False])
def test_mean_teacher(tmp_path, skip_buffer):
    torch.manual_seed(0)
    model = MeanTeacher()
    teaching = dict(type='mmdet.MeanTeacherHook', momentum=0.1, skip_buffer=skip_buffer)
    averaging = dict(type='EMAHook', update_buffers=True)
    pairs = dict(teacher='student')
    agree, log = train(tmp_path, model, pairs, [teaching, averaging])
    assert agree == [True] * 20
    assert '2 sparse layers are averages' in log
    checkpoint = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)
    for form in ('state_dict', 'ema_state_dict'):
        masks = {k: v for k, v in checkpoint[form].items() if k.endswith('mask')}
        assert len(masks) == 4
        for name, mask in masks.items():
            student = masks[name.replace('teacher', 'student')]
            assert torch.equal(mask, student)
    x = [torch.randn(8, 2, 2)]
    for network in (model.student, model.teacher):
        expected = network(x)
        condense_layers(network)
        torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize('update_buffers', [True, False])
def test_momentum_encoder(tmp_path, update_buffers):
    torch.manual_seed(0)
    model = MomentumEncoder(update_buffers)
    net = 'momentum_net.module'
    agree, _ = train(tmp_path, model, {f'{net}.0': 'backbone'})
    assert agree == [True] * 20
    masks = (layer.mask for layer in (model.neck, model.momentum_net.module[1]))
    assert torch.equal(*masks)
    condense_layers(model)


def test_pair_that_is_named(tmp_path):
    torch.manual_seed(0)
    pairs = dict(teacher='student')
    agree, _ = train(tmp_path, HandMade(), pairs, averages=pairs)
    assert agree == [True] * 20


def test_average_of_an_unknown_part_is_told_and_can_be_named(tmp_path):
    torch.manual_seed(0)
    model = MomentumEncoder(update_buffers=True, twins=True)
    (tmp_path / 'told').mkdir()
    _, log = train(tmp_path / 'told', model, {})
    assert 'momentum_net.module.1 is an average of' in log
    assert 'averages=' in log

    torch.manual_seed(0)
    model = MomentumEncoder(update_buffers=True, twins=True)
    (tmp_path / 'named').mkdir()
    pairs = {'momentum_net.module.1': 'neck'}
    _, log = train(tmp_path / 'named', model, {}, averages=pairs)
    assert 'is an average of' not in log
    assert torch.equal(model.momentum_net.module[1].mask, model.neck.mask)
    assert not torch.equal(model.other.mask, model.neck.mask)


def test_group_lasso_counts_what_is_trained(tmp_path):
    torch.manual_seed(0)
    model = MeanTeacher()
    student = model.student
    expected = (student.lgc.group_lasso() + student.sfr.group_lasso()).item()
    teaching = dict(type='mmdet.MeanTeacherHook')
    losses = []

    class Losses(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            losses.append(outputs.get('loss_group_lasso', torch.zeros(())).item())

    train(tmp_path, model, {}, [teaching, Losses()], group_lasso=1.0)
    assert losses[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ('averages', 'sentence'),
    [
        (dict(teacher='pupil'), 'no attribute .pupil'),
        (dict(teacher='student.lgc'), 'have not the same sparse layers'),
        (dict(teacher='student', student='teacher'), 'averages of each other'),
    ],
)
def test_pairs_that_cannot_be(tmp_path, averages, sentence):
    with pytest.raises(InputError, match=sentence):
        train(tmp_path, MeanTeacher(), {}, averages=averages)
