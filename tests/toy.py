"""A model and a runner so small that whole trainings take a second.

Run by torchrun it trains distributed, for the test of the ranks' masks.
"""

import sys
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner

from mmcdnv2.layers import LGC, SFR

ITERS_PER_EPOCH = 5


class ToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.lgc = LGC(8, 8, groups=4, condense_factor=4)
        self.sfr = SFR(8, 15, groups=2, sparse_factor=3)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = self.sfr(self.lgc(torch.stack(inputs)))
        return dict(loss_toy=out.square().mean()) if mode == 'loss' else out


class ToyData(torch.utils.data.Dataset):
    def __len__(self):
        return 2 * ITERS_PER_EPOCH

    def __getitem__(self, i):
        torch.manual_seed(i)
        return dict(inputs=torch.randn(8, 2, 2), data_samples=i)


def make_runner(
    work_dir,
    train_cfg=None,
    hooks=(),
    model=None,
    batch_size=2,
    hook=None,
    kind=Runner,
    optim_wrapper=None,
    default_hooks=None,
    **kwargs,
):
    if model is None:
        torch.manual_seed(0)
        model = ToyModel()
    return kind(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=0,
            dataset=ToyData(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=4),
        optim_wrapper=optim_wrapper
        or dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        default_hooks=dict(
            default_hooks or {}, logger=dict(type='LoggerHook', interval=1)
        ),
        custom_hooks=[hook or dict(type='SparsificationHook'), *hooks],
        randomness=dict(seed=0),
        experiment_name=f'{work_dir.name}_{id(model)}',
        **kwargs,
    )


class Drift(Hook):
    """Let the weights of the ranks drift apart."""

    def before_train(self, runner):
        with torch.no_grad():
            for parameter in runner.model.parameters():
                parameter.add_(torch.randn_like(parameter) * get_rank())


def train_distributed(folder):
    """Train on all ranks and save what each one has come to."""
    torch.set_num_threads(1)
    # MMEngine's launchers set a CUDA device; gloo on the CPU starts by hand.
    torch.distributed.init_process_group('gloo')
    model = MMDistributedDataParallel(ToyModel(), broadcast_buffers=False)
    make_runner(folder, hooks=[Drift()], model=model).train()
    torch.save(model.module.state_dict(), folder / f'rank{get_rank()}.pth')


if __name__ == '__main__':
    train_distributed(Path(sys.argv[1]))
