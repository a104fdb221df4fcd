"""What a training may be combined with: masks are right and condensing is exact."""

import copy
from contextlib import contextmanager
from fractions import Fraction
from itertools import combinations

import any_shape
import pytest
import torch
from kernel_networks import MODERN
from mmengine.hooks import Hook
from mmengine.model import (
    BaseModel,
    convert_sync_batchnorm,
    revert_sync_batchnorm,
)
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from toy import make_runner

from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.layers import condense_layers, sparse_layers, unfinished_layers

ITERATIONS = 20
ARCH = dict(
    depths=(1, 2),
    growth_rates=(4, 8),
    groups=2,
    condense_factor=4,
    sparse_factor=3,
    sfr_order=('conv', 'norm', 'act'),
    hswish_from=1,
    se_from=1,
    stem_stride=1,
)


@OPTIM_WRAPPERS.register_module(force=True)
class Bfloat16(OptimWrapper):
    """MMEngine's AmpOptimWrapper refuses a CPU. This type needs no loss scale."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


class Network(BaseModel):
    def __init__(self, **settings):
        super().__init__()
        self.backbone = CondenseNetV2(ARCH, in_channels=8, **settings)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = nn.functional.interpolate(torch.stack(inputs), 6, mode='bilinear')
        out = self.backbone(x)[0]
        self.dtype = out.dtype
        return dict(loss=(out - 1).square().mean()) if mode == 'loss' else out


class Masks(Hook):
    """Check all masks in each iteration, those of averages too."""

    priority = 'LOWEST'

    def __init__(self):
        self.before = {}
        self.checked = 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        progress = Fraction(runner.iter, ITERATIONS)
        for name, layer in sparse_layers(runner.model).items():
            before = self.before.get(name, torch.ones_like(layer.mask))
            stage = any_shape.stage_by_hand(progress, layer.factor)
            any_shape.check_mask(layer, before, stage)
            self.before[name] = layer.mask.clone()
            self.checked += 1

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        assert torch.isfinite(outputs['loss'])
        for average in averages(runner):
            layers = sparse_layers(average)
            for name, layer in sparse_layers(runner.model).items():
                assert torch.equal(layers[name].mask, layer.mask)


def averages(runner):
    return [h.ema_model.module for h in runner.hooks if hasattr(h, 'ema_model')]


SETTINGS = dict(
    bfloat16=dict(optim=dict(type='Bfloat16')),
    # Of 20 iterations the last two are accumulated by themselves, and each of LGC's
    # three stages begins at another place.
    accumulation=dict(optim=dict(accumulative_counts=3)),
    # Between its updates an average is late.
    ema=dict(hook=dict(type='EMAHook', momentum=0.1, interval=3)),
    ema_buffers=dict(hook=dict(type='EMAHook', momentum=0.1, update_buffers=True)),
    sync_bn=dict(),
    channels_last=dict(hook=dict(type='ChannelsLastHook')),
    frozen=dict(model=dict(frozen_stages=1)),
    norm_eval=dict(model=dict(norm_eval=True)),
    recomputed=dict(model=dict(with_cp=True)),
    compiled=dict(compile=dict(backend='aot_eager')),
)
# They are two kinds of the same, and compiling takes long.
APART = [{'ema', 'ema_buffers'}]
PAIRS = [
    pair
    for pair in combinations(SETTINGS, 2)
    if set(pair) not in APART and 'compiled' not in pair
]


@pytest.mark.parametrize(
    'names', [*((name,) for name in SETTINGS), *PAIRS], ids='-'.join
)
def test_masks_are_right_and_condensing_is_exact(tmp_path, names):
    if 'compiled' in names and not MODERN:
        pytest.skip('torch 2.1 cannot compile a step of training with super()')
    chosen = [SETTINGS[name] for name in names]
    torch.manual_seed(0)
    model = Network(
        **{k: v for each in chosen for k, v in each.get('model', {}).items()}
    )
    model.init_weights()
    is_sync = 'sync_bn' in names
    masks = Masks()
    hooks = [masks, *(each['hook'] for each in chosen if 'hook' in each)]
    start = copy.deepcopy(model.state_dict())
    train_cfg = dict(by_epoch=True, max_epochs=4)
    runner = make_runner(tmp_path, train_cfg, hooks, model)
    if is_sync:
        # Without ranks a new runner reverts it.
        runner.model = model = convert_sync_batchnorm(model)
    for each in chosen:
        runner.optim_wrapper.update(each.get('optim', {}))
        runner.cfg.compile = each.get('compile', runner.cfg.get('compile'))
    runner.train()
    assert masks.checked == ITERATIONS * len(sparse_layers(model))
    assert (model.dtype == torch.bfloat16) == ('bfloat16' in names)
    check_trained(model, start, names)
    for network in (model, *averages(runner)):
        check_condensed(copy.deepcopy(network), is_sync)


def check_trained(model, start, names):
    """Weights have changed, but where they were frozen."""
    frozen = model.backbone.frozen_stages
    for name, parameter in model.named_parameters():
        still = frozen >= 0 and name.startswith(('backbone.stem', 'backbone.blocks.0'))
        assert parameter.requires_grad != still
        if still:
            assert torch.equal(parameter, start[name]), name
    layers = sparse_layers(model)
    assert sum(layer.weight.requires_grad for layer in layers.values()) >= 4
    for name, layer in layers.items():
        if layer.weight.requires_grad:
            assert not torch.equal(layer.weight, start[f'{name}.weight'])


@torch.no_grad()
def check_condensed(model, is_sync):
    assert not unfinished_layers(model)
    model.eval()
    small = copy.deepcopy(model)
    condense_layers(small)
    small.eval()
    torch.manual_seed(1)
    x = torch.randn(2, 8, 7, 6)
    any_shape.check_outputs(model.backbone, small.backbone, x)
    if is_sync:
        norms = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
        assert norms
        reverted = revert_sync_batchnorm(copy.deepcopy(small)).eval()
        norms = [m for m in reverted.modules() if isinstance(m, nn.SyncBatchNorm)]
        assert not norms
        expected = any_shape.fallback(small.backbone, x)
        any_shape.assert_same(reverted.backbone(x), expected)
