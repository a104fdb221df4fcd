"""LearnedGroupLaterals, alone and before MMDetection's necks."""

import re

import pytest
import torch
from conftest import ROOT, randomise, save_checkpoint
from kernel_networks import assert_same, fallback, uses_kernels
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.models import ResNet

from mmcdnv2 import ops
from mmcdnv2.builder import build_model
from mmcdnv2.checkpoint import load_weights
from mmcdnv2.deploy import condense_checkpoint
from mmcdnv2.deploy.condense import condensed_config
from mmcdnv2.errors import InputError
from mmcdnv2.layers import LGCModule, condense_layers, kernel_report, sparse_layers
from mmcdnv2.necks import LearnedGroupLaterals

FPN = dict(type='FPN', in_channels=[16, 16, 16], out_channels=8, num_outs=4)
NECKS = (
    FPN,
    dict(FPN, type='PAFPN'),
    dict(type='CSPNeXtPAFPN', in_channels=[16, 16, 16], out_channels=8),
)
CHANNELS = (20, 37, 50)


def maps(channels=CHANNELS, size=24):
    torch.manual_seed(1)
    return tuple(
        torch.randn(2, c, size >> i, size >> i) for i, c in enumerate(channels)
    )


def finish(module):
    randomise(module)
    for layer in sparse_layers(module).values():
        layer.set_progress(1)
    return module.eval()


@torch.no_grad()
def test_torch_fx_traces_them_behind_a_backbone():
    backbone = ResNet(18, base_channels=4, stem_channels=4, out_indices=(1, 2, 3))
    laterals = LearnedGroupLaterals((8, 16, 32), 16, groups=4)
    network = torch.nn.Sequential(backbone, finish(laterals)).eval()
    graph = torch.fx.symbolic_trace(network)
    images = torch.rand(1, 3, 64, 64)
    assert_same(graph(images), network(images))


@torch.no_grad()
@pytest.mark.parametrize('neck', NECKS, ids=lambda neck: neck['type'])
def test_before_other_necks(neck):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    laterals = dict(
        type='LearnedGroupLaterals', in_channels=CHANNELS, out_channels=16, groups=4
    )
    sparse = finish(MODELS.build([laterals, neck]))
    condensed = MODELS.build([dict(laterals, deploy=True), neck]).eval()
    condensed.load_state_dict(sparse.state_dict())
    assert not sparse_layers(condensed)
    expected = sparse(maps())
    assert_same(condensed(maps()), expected)
    assert_same(fallback(condensed, maps()), expected)


@torch.no_grad()
@pytest.mark.skipif(not ops.load(), reason=f'no kernels: {ops.describe()}')
@pytest.mark.parametrize('act', ['ReLU', 'HSwish', None])
@pytest.mark.parametrize('order', [('norm', 'act', 'conv'), ('conv', 'norm', 'act')])
def test_runs_on_the_kernel(order, act):
    torch.manual_seed(0)
    module = LGCModule(
        37, 24, groups=4, condense_factor=3, order=order, act_cfg=act and dict(type=act)
    )
    finish(module)
    # Full vectors of pixels, full vectors with a remainder, less than a vector.
    inputs = [torch.randn(2, 37, *size) for size in ((16, 16), (9, 13), (2, 3))]
    expected = [module(x) for x in inputs]
    condense_layers(module)
    module.eval()
    for x, output in zip(inputs, expected):
        assert uses_kernels(module, x)
        assert_same([module(x)], [output])
        assert_same([fallback(module, x)], [output])
        x = x.contiguous(memory_format=torch.channels_last)
        assert_same([module(x)], [output])
    assert kernel_report(module) == {'': ops.describe()}


@torch.no_grad()
def test_empty_maps_and_batches():
    module = LGCModule(16, 8, groups=4, deploy=True).eval()
    for shape in ((0, 16, 4, 4), (1, 16, 0, 4)):
        assert module(torch.rand(shape)).shape == (shape[0], 8, *shape[2:])


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(out_channels=[16, 16]), 'one for each of the 3 in_channels'),
        (dict(out_channels=18), 'cannot split 18 output channels into 4'),
        (dict(condense_factor=[4, 4]), 'condense_factor of .* one for each of the 3'),
        (dict(condense_factor=21), r'must be in \[1, 20\], got 21'),
    ],
)
def test_rejects_bad_arguments(settings, message):
    settings = dict(dict(in_channels=CHANNELS, out_channels=16, groups=4), **settings)
    with pytest.raises(InputError, match=message):
        LearnedGroupLaterals(**settings)


def test_rejects_maps_that_do_not_match():
    neck = LearnedGroupLaterals(CHANNELS, 16, groups=4)
    with pytest.raises(InputError, match=r'returns maps with \[20, 37, 49\] channels'):
        neck(maps((20, 37, 49)))
    with pytest.raises(InputError, match=r'returns maps with \[20, 37\] channels'):
        neck(maps((20, 37)))


@pytest.fixture(scope='module')
def detector(tiny_configs, tmp_path_factory):
    """Write a tiny detector's config with laterals, optionally pretrained."""
    folder = tmp_path_factory.mktemp('laterals')

    def write(width=16, pretrained=None):
        init = dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')
        path = folder / f'detector{width}{bool(pretrained)}.py'
        path.write_text(
            f"""_base_ = {tiny_configs['detector']!r}
model = dict(
    backbone=dict(init_cfg={init if pretrained else None!r}),
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[24, 32, 64],
            out_channels={width},
            groups=4,
        ),
        dict(type='FPN', in_channels=[{width}] * 3, out_channels=64, num_outs=4),
    ],
)
"""
        )
        return str(path)

    return write


def test_condenses_and_loads_back(detector, tmp_path):
    config = detector()
    checkpoint = save_checkpoint(config, tmp_path / 'sparse.pth')
    report = condense_checkpoint(config, checkpoint, tmp_path, input_shape=(64, 64))
    assert 'neck' in report.compared
    assert 'neck.0.laterals.2' in report.runs_on
    condensed = build_model(Config.fromfile(report.config))
    assert not sparse_layers(condensed)
    weights = torch.load(report.checkpoint, weights_only=True)['state_dict']
    assert weights['neck.0.laterals.2.conv.weight'].shape == (16, 16, 1, 1)
    # Laterals of another width cannot load it.
    with pytest.raises(InputError, match=r'neck\.0\.laterals\.0\.conv'):
        load_weights(build_model(Config.fromfile(detector(24))), weights, 'the file')


def test_unfinished_laterals_are_reported(detector, tmp_path):
    config = detector()
    checkpoint = save_checkpoint(config, tmp_path / 'sparse.pth')
    content = torch.load(checkpoint, weights_only=True)
    content['state_dict']['neck.0.laterals.1.conv.mask'].fill_(True)
    torch.save(content, checkpoint)
    message = r'in 1 of \d+ layers[^\n]*\n  neck\.0\.laterals\.1\.conv keeps 32 of 32'
    with pytest.raises(InputError, match=message):
        condense_checkpoint(config, checkpoint, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_hook_prunes_the_laterals_of_a_finished_backbone(detector, tmp_path):
    checkpoint = save_checkpoint(detector(), tmp_path / 'sparse.pth')
    cfg = Config.fromfile(detector(pretrained=checkpoint))
    cfg.work_dir = str(tmp_path)
    cfg.train_cfg = dict(by_epoch=False, max_iters=4)
    cfg.param_scheduler = []
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    given = torch.load(checkpoint, weights_only=True)['state_dict']
    for name, layer in sparse_layers(runner.model.backbone).items():
        assert torch.equal(layer.mask, given[f'backbone.{name}.mask'])
    laterals = sparse_layers(runner.model.neck)
    assert len(laterals) == 3
    assert all(layer.kept == layer.columns // 4 for layer in laterals.values())


def test_example_in_the_docs(tmp_path):
    text = (ROOT / 'docs' / 'detection.md').read_text()
    config = tmp_path / 'config.py'
    config.write_text(re.search(r'```python\n(.*?)```', text, re.S)[1])
    cfg = Config.fromfile(config)
    model = build_model(cfg)
    assert len(sparse_layers(model.neck)) == 3
    assert cfg.custom_hooks[-1] == dict(type='SparsificationHook')
    with torch.no_grad():
        outputs = model.extract_feat(torch.rand(1, 3, 64, 64))
    assert [x.shape for x in outputs] == [(1, 96, s, s) for s in (8, 4, 2)]
    assert not sparse_layers(build_model(condensed_config(cfg)))
