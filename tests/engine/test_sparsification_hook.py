"""The hook in real runners: schedule, resuming, averaging, logging."""

import json
import logging
import re
import subprocess
import sys

import pytest
import torch
import toy
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import BaseLoop
from torch import nn
from toy import ITERS_PER_EPOCH, ToyData, ToyModel, make_runner

from mmcdnv2.engine import SparsificationHook, TrainingRunner
from mmcdnv2.errors import InputError
from mmcdnv2.layers import kept_fraction, stage_of


class Recorder(Hook):
    """Keep what the hook under test did in every iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.kept, self.masks_agree = [], []
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = runner.model
        self.kept.append((model.lgc.kept, model.sfr.kept))
        self.losses.append(outputs)
        for hook in runner.hooks:
            if hasattr(hook, 'ema_model'):
                average = hook.ema_model.module
                self.masks_agree.append(
                    torch.equal(average.lgc.mask, model.lgc.mask)
                    and torch.equal(average.sfr.mask, model.sfr.mask)
                )


@pytest.mark.parametrize(
    'train_cfg',
    [
        dict(by_epoch=True, max_epochs=4),
        dict(by_epoch=False, max_iters=20),
    ],
    ids=['epochs', 'iters'],
)
def test_follows_the_schedule(tmp_path, train_cfg):
    recorder = Recorder()
    make_runner(tmp_path, train_cfg, [recorder]).train()
    # ceil(8 * (4 - stage) / 4) and ceil(15 * (3 - stage) / 3)
    expected = [
        (8 - 2 * stage_of(i / 20, 4), 15 - 5 * stage_of(i / 20, 3)) for i in range(20)
    ]
    assert recorder.kept == expected
    assert expected[0] == (8, 15)
    assert expected[10:] == [(2, 5)] * 10


def test_begins_and_ends_as_told(tmp_path):
    recorder = Recorder()
    hook = dict(type='SparsificationHook', begin=0.25, end=0.75)
    train_cfg = dict(by_epoch=True, max_epochs=4)
    make_runner(tmp_path, train_cfg, [recorder], hook=hook).train()
    # LGC has three stages from iteration 5 to 15, SFR two.
    lgc = [8] * 9 + [6] * 3 + [4] * 3 + [2] * 5
    sfr = [15] * 10 + [10] * 5 + [5] * 5
    assert recorder.kept == list(zip(lgc, sfr))


def test_resumes_exactly(tmp_path):
    (tmp_path / 'straight').mkdir()
    straight = make_runner(tmp_path / 'straight')
    straight.train()

    # Stops in the middle of the schedule.
    class Stop(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 2:
                raise KeyboardInterrupt

    broken = tmp_path / 'broken'
    broken.mkdir()
    with pytest.raises(KeyboardInterrupt):
        make_runner(broken, hooks=[Stop()]).train()
    recorder = Recorder()
    resumed = make_runner(broken, hooks=[recorder], resume=True)
    resumed.train()
    assert len(recorder.kept) == 2 * ITERS_PER_EPOCH
    expected = straight.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


class Disturb(Hook):
    """Give pruned weights and their momentum other values."""

    priority = 'LOWEST'

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for layer in (runner.model.lgc, runner.model.sfr):
            kept = layer.from_matrix(
                layer.mask.repeat(layer.members, 1).to(layer.weight.dtype)
            )
            momentum = runner.optim_wrapper.optimizer.state[layer.weight]
            for tensor in (layer.weight, momentum['momentum_buffer']):
                tensor.copy_(torch.where(kept.bool(), tensor, 100 * runner.iter))


def test_pruned_weights_and_their_momentum_do_not_matter(tmp_path):
    models = []
    for name, hooks in (('plain', []), ('disturbed', [Disturb()])):
        (tmp_path / name).mkdir()
        runner = make_runner(tmp_path / name, hooks=hooks)
        runner.train()
        models.append(runner.model)
    plain, disturbed = models
    assert (disturbed.lgc.weight.abs() > 50).any()
    for kind in ('lgc', 'sfr'):
        layer, other = getattr(plain, kind), getattr(disturbed, kind)
        assert torch.equal(layer.mask, other.mask)
        assert torch.equal(layer.masked_weight(), other.masked_weight())


class Remember(Hook):
    """Keep the largest of what is pruned, and of what is remembered of it."""

    priority = 'LOWEST'

    def __init__(self):
        self.largest = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for layer in (runner.model.lgc, runner.model.sfr):
            state = runner.optim_wrapper.optimizer.state[layer.weight]
            for tensor in (layer.weight, *state.values()):
                if getattr(tensor, 'shape', None) == layer.weight.shape:
                    pruned = tensor.detach().clone()
                    with torch.no_grad():
                        pruned -= layer._masked(pruned)
                    self.largest.append(pruned.abs().max().item())


@pytest.mark.parametrize(
    'optimizer',
    [
        dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        dict(type='Adam', lr=0.1, weight_decay=0.1, amsgrad=True),
        dict(type='AdamW', lr=0.1, weight_decay=0.1),
        dict(type='RMSprop', lr=0.01, momentum=0.9, weight_decay=0.1),
    ],
    ids=lambda optimizer: optimizer['type'],
)
def test_pruned_weights_are_zero_and_stay_it(tmp_path, optimizer):
    remember = Remember()
    wrapper = dict(optimizer=optimizer)
    make_runner(tmp_path, hooks=[remember], optim_wrapper=wrapper).train()
    assert remember.largest
    assert set(remember.largest) == {0}


class Poison(Hook):
    """Make a weight NaN or infinite at some iteration."""

    def __init__(self, iteration, value, layer='sfr'):
        self.iteration, self.value, self.layer = iteration, value, layer

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.iteration:
            layer = runner.model.get_submodule(self.layer)
            with torch.no_grad():
                layer.weight[layer.mask.nonzero()[0].tolist()[1]] = self.value


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize(
    ('iteration', 'found'),
    # Stages begin at 4 and 5; iterations 4 and 14 are the last of an epoch.
    [(4, 5), (3, 4), (14, 15)],
)
def test_names_layers_that_are_not_finite(tmp_path, value, iteration, found):
    poison = Poison(iteration, value)
    poison.priority = 'VERY_HIGH'
    message = f'The weights of sfr are NaN or infinite before iteration {found}: '
    with pytest.raises(InputError, match=message):
        make_runner(tmp_path, hooks=[poison]).train()
    whole = iteration // ITERS_PER_EPOCH
    assert len(list(tmp_path.glob('*.pth'))) == whole


class StopAt(Hook):
    """Interrupt the training before an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            raise KeyboardInterrupt


def kept_at(progress):
    """What the toy's layers keep: ceil(C * (factor - stage) / factor)."""
    return 8 - 2 * stage_of(progress, 4), 15 - 5 * stage_of(progress, 3)


@pytest.mark.parametrize('batch_size', [1, 5])
def test_resumes_by_epochs_with_another_batch_size(tmp_path, batch_size):
    with pytest.raises(KeyboardInterrupt):
        make_runner(tmp_path, hooks=[StopAt(ITERS_PER_EPOCH)]).train()
    recorder = Recorder()
    sizes = dict(batch_size=batch_size)
    make_runner(tmp_path, hooks=[recorder], resume=True, **sizes).train()
    iterations = 10 // batch_size
    expected = [kept_at((1 + i / iterations) / 4) for i in range(3 * iterations)]
    assert recorder.kept == expected


def test_resumes_in_the_middle_of_an_epoch(tmp_path):
    """MMEngine begins the epoch anew but goes on to count the iterations."""
    saving = dict(type='CheckpointHook', by_epoch=False, interval=4)
    with pytest.raises(KeyboardInterrupt):
        make_runner(tmp_path, hooks=[saving, StopAt(8)]).train()
    recorder = Recorder()
    resumed = make_runner(tmp_path, hooks=[saving, recorder], resume=True)
    resumed.train()
    assert resumed.iter == 23
    # Nothing returns that the first run had pruned by its iteration 7.
    expected = [min(kept_at(7 / 20), kept_at((5 + i) / 20)) for i in range(15)]
    assert recorder.kept == expected


class LongLoop(BaseLoop):
    """A loop of neither kind, which goes on beyond its number of iterations."""

    epoch, max_epochs = 0, 1
    iter, max_iters = 0, 6

    def run(self):
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        for batch in self.dataloader:
            self.runner.call_hook('before_train_iter', batch_idx=0, data_batch=batch)
            self.runner.call_hook('after_train_iter', batch_idx=0, data_batch=batch)
            self.iter += 1


def test_other_loops_count_iterations_and_end_at_one(tmp_path):
    recorder = Recorder()
    runner = make_runner(tmp_path, hooks=[recorder], batch_size=1)
    runner._train_loop = LongLoop(runner, runner._train_dataloader)
    runner.train()
    assert recorder.kept == [kept_at(min(i / 6, 1)) for i in range(10)]


@pytest.mark.parametrize('update_buffers', [False, True])
def test_averaged_model_has_the_same_masks(tmp_path, update_buffers):
    recorder = Recorder()
    ema = dict(type='EMAHook', momentum=0.1, interval=3, update_buffers=update_buffers)
    make_runner(tmp_path, hooks=[ema, recorder]).train()
    assert recorder.masks_agree == [True] * 20
    checkpoint = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)
    for form in ('state_dict', 'ema_state_dict'):
        masks = [v for k, v in checkpoint[form].items() if k.endswith('mask')]
        assert [int(mask.sum()) for mask in masks] == [4 * 2, 2 * 5]


def test_logs_to_every_backend(tmp_path):
    runner = make_runner(tmp_path)
    runner.train()
    lines = next(tmp_path.glob('*/vis_data/scalars.json')).read_text()
    logged = [json.loads(line)['kept_fraction'] for line in lines.splitlines()]
    weights = 64 + 120
    expected = [
        (64 * (1 - stage_of(i / 20, 4) / 4) + 120 * (1 - stage_of(i / 20, 3) / 3))
        / weights
        for i in range(20)
    ]
    assert logged == pytest.approx(expected)
    assert logged[-1] == pytest.approx(kept_fraction(runner.model))


def test_group_lasso(tmp_path):
    (tmp_path / 'plain').mkdir()
    (tmp_path / 'lasso').mkdir()
    plain, lasso = Recorder(), Recorder()
    make_runner(tmp_path / 'plain', hooks=[plain]).train()
    torch.manual_seed(0)
    model = ToyModel()
    first_term = 0.01 * (model.lgc.group_lasso() + model.sfr.group_lasso()).item()
    hooks = [lasso]
    runner = make_runner(tmp_path / 'lasso', model=model, hooks=hooks)
    hook = next(h for h in runner.hooks if isinstance(h, SparsificationHook))
    hook.group_lasso = 0.01
    runner.train()
    assert lasso.losses[0]['loss_group_lasso'].item() == pytest.approx(first_term)
    total = lasso.losses[0]['loss'].item()
    assert total == pytest.approx(plain.losses[0]['loss'].item() + first_term)
    # Nothing is left to prune in the second half.
    assert ['loss_group_lasso' in out for out in lasso.losses] == [True] * 10 + [
        False
    ] * 10
    # The hook leaves the model as it was.
    assert not model._forward_hooks


@pytest.mark.parametrize('weight', [0.0, 0.02])
def test_group_lasso_of_an_interrupted_training_is_gone(tmp_path, weight):
    torch.manual_seed(0)
    model = ToyModel()

    def train(name, weight, *hooks):
        (tmp_path / name).mkdir()
        hook = dict(type='SparsificationHook', group_lasso=weight)
        make_runner(tmp_path / name, None, hooks, model, hook=hook).train()

    with pytest.raises(KeyboardInterrupt):
        train('interrupted', 0.01, StopAt(2))
    recorder = Recorder()
    term = weight * (model.lgc.group_lasso() + model.sfr.group_lasso()).item()
    train('again', weight, recorder)
    first = recorder.losses[0]
    assert first.get('loss_group_lasso', torch.zeros(())).item() == pytest.approx(term)
    assert first['loss'].item() == pytest.approx(first['loss_toy'].item() + term)
    assert ['loss_group_lasso' in out for out in recorder.losses] == [
        weight > 0 and i < 10 for i in range(20)
    ]
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ('train_cfg', 'sentence'),
    [
        (dict(by_epoch=True, max_epochs=2), 'all 2 sparse layers reached their final'),
        (dict(by_epoch=False, max_iters=1), 'lgc keeps 8 of 8 .* come down to 2'),
    ],
)
def test_says_at_the_end_whether_it_finished(tmp_path, caplog, train_cfg, sentence):
    runner = make_runner(tmp_path, train_cfg)
    runner.logger.addHandler(caplog.handler)
    runner.train()
    assert any(re.search(sentence, message) for message in caplog.messages)


def test_warns_if_there_is_nothing_to_sparsify(tmp_path, caplog):
    class Dense(ToyModel):
        def __init__(self):
            BaseModel.__init__(self)
            self.lgc = self.sfr = nn.Conv2d(8, 8, 1)

    runner = make_runner(tmp_path, model=Dense())
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        runner.train()
    assert 'found no LGC or SFR' in caplog.text


def test_negative_weight_is_refused():
    with pytest.raises(InputError, match='must not be negative'):
        SparsificationHook(group_lasso=-1)


@pytest.mark.parametrize('times', [(0.5, 0.5), (-0.1, 0.5), (0, 1), (0.6, 0.5)])
def test_times_outside_of_the_training_are_refused(times):
    with pytest.raises(InputError, match='0 <= begin < end < 1, got'):
        SparsificationHook(begin=times[0], end=times[1])


def test_ranks_have_the_same_masks(tmp_path):
    torchrun = [sys.executable, '-m', 'torch.distributed.run']
    script = [toy.__file__, str(tmp_path)]
    options = ['--nproc_per_node=2', '--standalone']
    subprocess.run([*torchrun, *options, *script], check=True)
    first, second = (torch.load(tmp_path / f'rank{r}.pth') for r in range(2))
    assert not torch.equal(first['lgc.weight'], second['lgc.weight'])
    for name in ('lgc.mask', 'sfr.mask'):
        assert torch.equal(first[name], second[name])
    assert first['lgc.mask'].sum() == 4 * 2


class WorseAndWorse(BaseMetric):
    """Scores that fall from each validation to the next."""

    def __init__(self, begin=0):
        super().__init__()
        self.count = begin

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.count += 1
        return dict(acc=1 / self.count, auc=0.5 / self.count)


def make_validating_runner(work_dir, done=0, max_epochs=4, save_best=None, **options):
    saving = dict(type='CheckpointHook', interval=1, save_best=save_best)
    return make_runner(
        work_dir,
        dict(by_epoch=True, max_epochs=max_epochs, val_interval=1),
        kind=TrainingRunner,
        default_hooks=dict(checkpoint=saving),
        val_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=ToyData(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        val_cfg=dict(),
        val_evaluator=Evaluator(WorseAndWorse(done)),
        **options,
    )


def best_and_announced(folder):
    """The best checkpoints, and how often it was logged that they compete anew."""
    best = sorted(path.stem for path in folder.glob('best_*.pth'))
    logs = ''.join(log.read_text() for log in folder.glob('*/*.log'))
    return best, logs.count('competes for the best checkpoint')


@pytest.mark.parametrize('save_best', ['auto', ['acc', 'auc']])
def test_only_finished_masks_compete_for_the_best(tmp_path, save_best):
    make_validating_runner(tmp_path, save_best=save_best).train()
    # Pruning ends when the third of four epochs begins.
    names = ['acc'] if save_best == 'auto' else ['acc', 'auc']
    expected = [f'best_{name}_epoch_3' for name in names]
    assert best_and_announced(tmp_path) == (expected, 1)
    for epoch, announced in ((3, 1), (2, 2)):
        # Before and after it.
        last = str(tmp_path / f'epoch_{epoch}.pth')
        options = dict(load_from=last, resume=True, save_best=save_best)
        make_validating_runner(tmp_path, epoch, **options).train()
        assert best_and_announced(tmp_path) == (expected, announced)


@pytest.mark.parametrize(
    ('options', 'epochs'), [(dict(patience=1), 5), (dict(stopping_threshold=0.01), 4)]
)
def test_early_stopping_waits_for_finished_masks(tmp_path, options, epochs):
    hook = dict(type='EarlyStoppingHook', monitor='acc', min_delta=0, **options)
    runner = make_validating_runner(tmp_path, max_epochs=6, hooks=[hook])
    runner.train()
    assert runner.epoch == epochs
