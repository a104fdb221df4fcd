"""Resuming what was begun when every ConvModule listed its convolution first."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn
from toy import make_runner

from mmcdnv2.engine.optimizer_order import renumber_checkpoint
from mmcdnv2.layers import OrderedConvModule, SFRModule

OPTIMIZERS = dict(
    SGD=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1),
    AdamW=dict(type='AdamW', lr=0.01, weight_decay=0.1),
)
# Groups that differ in all that a group may differ in.
PARAMWISE = dict(norm_decay_mult=0.0, custom_keys={'conv.weight': dict(lr_mult=0.1)})


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        order = ('norm', 'act', 'conv')
        self.conv = OrderedConvModule(
            8, 8, 1, order=order, norm_cfg=dict(type='BN'), bias=True
        )
        self.frozen = nn.Conv2d(8, 8, 1).requires_grad_(False)
        self.sfr = SFRModule(8, 8, groups=2, sparse_factor=2, order=order)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = torch.stack(inputs)
        out = self.sfr(x, self.frozen(self.conv(x)))
        return dict(loss=out.square().mean()) if mode == 'loss' else out


class Stop(Hook):
    def before_train_epoch(self, runner):
        if runner.epoch == 2:
            raise KeyboardInterrupt


def runner_in(folder, optimizer, paramwise_cfg, **kwargs):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    schedule = dict(type='LinearLR', start_factor=0.1, end=20, by_epoch=False)
    runner = make_runner(folder, model=Model(), param_scheduler=[schedule], **kwargs)
    runner.optim_wrapper = dict(
        optimizer=OPTIMIZERS[optimizer], paramwise_cfg=paramwise_cfg
    )
    return runner


@pytest.mark.parametrize('before', ['old', 'new'])
@pytest.mark.parametrize('paramwise_cfg', [None, PARAMWISE], ids=['plain', 'paramwise'])
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_resumes(tmp_path, monkeypatch, optimizer, paramwise_cfg, before):
    straight = runner_in(tmp_path / 'straight', optimizer, paramwise_cfg)
    straight.train()
    with monkeypatch.context() as patch:
        if before == 'old':
            patch.setattr(OrderedConvModule, 'named_children', nn.Module.named_children)
        with pytest.raises(KeyboardInterrupt):
            runner_in(
                tmp_path / 'broken', optimizer, paramwise_cfg, hooks=[Stop()]
            ).train()
    resumed = runner_in(tmp_path / 'broken', optimizer, paramwise_cfg, resume=True)
    resumed.train()
    expected = straight.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert resumed.optim_wrapper.get_lr() == straight.optim_wrapper.get_lr()


def test_what_fits_as_it_is_stays():
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    # One group each, in another order than the model's.
    optimizer = torch.optim.SGD([dict(params=[p]) for p in parameters[::-1]], lr=0.1)
    groups = [dict(lr=0.1, params=[0]), dict(lr=0.2, params=[1])]
    state = {i: dict(momentum_buffer=torch.ones(2)) for i in range(2)}
    checkpoint = dict(optimizer=dict(state=state, param_groups=list(groups)))
    renumber_checkpoint(checkpoint, optimizer, parameters)
    assert checkpoint['optimizer']['param_groups'] == groups
