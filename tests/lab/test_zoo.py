"""All configs: they build, match the index's costs, train and condense."""

from functools import lru_cache

import pytest
import torch
from conftest import ROOT
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmpretrain.structures import DataSample

from lab.zoo import measure as uncached_measure
from lab.zoo import read_zoo
from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.builder import build_model
from mmcdnv2.condensable import CondensableMixin
from mmcdnv2.deploy import condense_checkpoint, costs
from mmcdnv2.layers import sparse_layers

measure = lru_cache(uncached_measure)
CONFIGS = ROOT / 'configs'
NAMES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.parts
)
ZOO = {model.name: model for model in read_zoo(ROOT)}
DETECTORS = [m.name for m in ZOO.values() if m.task != 'Image Classification']
CLASSIFIERS = [m.name for m in ZOO.values() if m.task == 'Image Classification']
LIGHT_DETECTORS = [name for name in DETECTORS if 'FLOPs' in ZOO[name].metadata]


def test_index_lists_every_config():
    assert len(ZOO) == len({model.config for model in ZOO.values()})
    listed = {str(model.config.relative_to(CONFIGS)) for model in ZOO.values()}
    # The demo and the study have their own data and no published figures.
    unlisted = ('demo/', 'study/')
    assert listed == {name for name in NAMES if not name.startswith(unlisted)}
    assert all(name == model.config.stem for name, model in ZOO.items())


@pytest.mark.parametrize('name', LIGHT_DETECTORS)
def test_cost_of_light_detectors(name):
    model = ZOO[name]
    size = tuple(map(int, model.metadata['Input'].split('x')))
    cost = measure(model.config, size)
    assert cost.params[1] == model.metadata['Parameters']
    assert cost.macs[1] == model.metadata['FLOPs']
    budgets = {('a', 320): 0.5e9, ('a', 640): 2e9, ('c', 320): 1.5e9, ('c', 640): 6e9}
    if name.startswith('rtmdet_cdnv2'):
        arch = name[len('rtmdet_cdnv2_')]
        assert cost.macs[1] < budgets.get((arch, size[0]), 6e9)


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_cost(name):
    model = ZOO[name]
    cost = measure(model.config)
    assert cost.params[1] == model.metadata['Parameters']
    assert cost.macs[1] == model.metadata['FLOPs']
    if model.published:
        for comparison in model.published.compare(cost).values():
            noted = comparison.name in model.published.notes
            agrees = comparison.is_near or comparison.rounds_to_printed
            assert agrees != noted, comparison


@pytest.mark.parametrize(
    ('name', 'params', 'megaflops', 'counted'),
    [
        ('cdnv2_a_8xb128_in1k', 2.038444, 45.87435, 'paper_flops'),
        ('cdnv2_b_8xb128_in1k', 3.592662, 146.469057, 'paper_flops'),
        ('cdnv2_c_8xb128_in1k', 6.177512, 309.74, 'paper_flops'),
        ('sfr_shufflenetv2_1.0x_16xb64_in1k', None, 149.2, 'macs'),
        ('sfr_shufflenetv2_1.5x_16xb64_in1k', None, 305.6, 'macs'),
        ('shufflenetv2-plus_small_16xb64_in1k', 5.14, 155.8, 'macs'),
        ('shufflenetv2-plus_medium_16xb64_in1k', 5.68, 222.2, 'macs'),
        ('shufflenetv2-plus_large_16xb64_in1k', 6.77, 360.1, 'macs'),
    ],
)
def test_cost_matches_the_measured_references(name, params, megaflops, counted):
    cost = measure(ZOO[name].config)
    exact = counted == 'paper_flops'
    if params:
        rel = 1e-9 if exact else 0.001
        assert cost.params[1] / 1e6 == pytest.approx(params, rel=rel)
    rel = 1e-5 if exact else 0.0015
    assert getattr(cost, counted)[1] / 1e6 == pytest.approx(megaflops, rel=rel)


def changes(name, arch):
    """Return the settings in which a config's arch differs from a named one."""
    settings = CondenseNetV2.arch_settings[arch]
    default = dict(hswish_from=2, se_from=3, sfr_groups=settings['groups'])
    given = Config.fromfile(ZOO[name].config).model.backbone.arch
    return {k: v for k, v in given.items() if v != {**default, **settings}[k]}


def test_figure_8_varies_only_the_reactivation():
    plain = ZOO['cdnv2-110_1xb64_cifar10'].metadata
    costs = {4: plain['FLOPs']}
    for number in (1, 2, 8):
        name = f'cdnv2-110_sfr-g{number}_1xb64_cifar10'
        assert changes(name, 'cifar-110') == dict(sfr_groups=number)
        for figure in ('FLOPs', 'Parameters'):
            assert ZOO[name].metadata[figure] == plain[figure]
        name = f'cdnv2-110_sfr-s{number}_1xb64_cifar10'
        assert changes(name, 'cifar-110') == dict(sparse_factor=number)
        costs[number] = ZOO[name].metadata['FLOPs']
    assert costs[1] > costs[2] > costs[4] > costs[8]


def test_table_4_uses_the_original_setting():
    no_se_hs = dict(hswish_from=None, se_from=None)
    rows = {
        'condensenet-a_4xb64-orig_in1k': (43.5, dict(no_se_hs, sparse_factor=None)),
        'cdnv2_a_no-se-hs_4xb64-orig_in1k': (39.8, no_se_hs),
        'cdnv2_a_4xb64-orig_in1k': (37.5, None),
        'cdnv2_a_8xb128_in1k': (35.6, None),
    }
    for name, (error, changed) in rows.items():
        assert ZOO[name].metrics['Top 1 Accuracy'] == pytest.approx(100 - error)
        cfg = Config.fromfile(ZOO[name].config)
        original = 'orig' in name
        assert (cfg.train_cfg.max_epochs == 120) == original
        assert ('label_smooth_val' in cfg.model.head.loss) != original
        if changed is None:
            assert cfg.model.backbone.arch == 'a'
        else:
            assert changes(name, 'a') == changed


@pytest.mark.parametrize('name', DETECTORS)
def test_detector(name):
    cfg = Config.fromfile(ZOO[name].config)
    model = build_model(cfg)
    is_sparse = 'cdnv2' in name or 'sfr' in name
    assert isinstance(model.backbone, CondensableMixin) == is_sparse
    assert bool(sparse_layers(model.backbone)) == is_sparse
    # The neck's outputs have the strides of the anchors.
    model.eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.zeros(1, 3, 128, 128))
    head = model.bbox_head if hasattr(model, 'bbox_head') else model.rpn_head
    strides = [stride[0] for stride in head.prior_generator.strides]
    if 'ssdlite' in name:
        # The strides of the smallest maps hold for images of 320 pixels.
        maps, strides = maps[:3], strides[:3]
    assert [128 // m.shape[-1] for m in maps] == strides
    if 'rcnn' in name:
        roi_head = model.roi_head
        extractor = roi_head.bbox_roi_extractor
        number = len(model.backbone.out_indices)
        assert list(extractor.featmap_strides) == strides[:number]
        assert extractor.finest_scale == 14 * strides[0]
        square = [anchors[1] for anchors in head.prior_generator.base_anchors]
        assert [round((a[2] - a[0]).item()) for a in square] == [32, 64, 128, 256, 512]


FAMILIES = (
    'cdnv2_a_8xb128_in1k',
    'condensenet-74-g8_4xb64_in1k',
    'sfr_shufflenetv2_0.5x_16xb64_in1k',
    'sfr_shufflenetv2-plus_small_16xb64_in1k',
    'cdnv2-110_1xb64_cifar100',
    'condensenet-50_1xb64_cifar10',
    'condensenet-a_4xb64-orig_in1k',
    'cdnv2_a_no-se-hs_4xb64-orig_in1k',
    'cdnv2-110_sfr-g1_1xb64_cifar10',
    'cdnv2-110_sfr-s1_1xb64_cifar10',
    'faster_rcnn_sfr_shufflenetv2_0.5x_fpn_1x_coco',
    'retinanet_cdnv2_a_fpn_1x_coco',
    'mask_rcnn_cdnv2_c_fpn_1x_coco',
    # The smaller sizes have the same models.
    *(name for name in LIGHT_DETECTORS if '-320-300e' not in name),
)


def training_batch(name, model, size):
    torch.manual_seed(0)
    if name in CLASSIFIERS:
        images = [torch.randint(0, 256, (3, size, size)) for _ in range(2)]
        samples = [DataSample().set_gt_label(label) for label in (0, 1)]
        batch = dict(inputs=images, data_samples=samples)
    else:
        batch = demo_mm_inputs(
            2, [[3, size, size]] * 2, num_classes=80, with_mask='mask' in name
        )
    return model.data_preprocessor(batch, training=True)


@pytest.mark.parametrize('name', FAMILIES)
def test_trains_and_condenses(name, tmp_path, monkeypatch):
    # Timing takes most of the time and tests nothing.
    monkeypatch.setattr(costs, 'median_latency', lambda functions: [1.0, 1.0])
    config = ZOO[name].config
    if 'rcnn' in name:
        # A thousand proposals take most of the time and test nothing.
        config = tmp_path / config.name
        config.write_text(
            f'_base_ = {str(ZOO[name].config)!r}\n'
            'model = dict(test_cfg=dict(rpn=dict(max_per_img=9)))\n'
        )
    size = 32 if 'cifar' in name else 64
    torch.manual_seed(0)
    model = build_model(Config.fromfile(config)).train()
    batch = training_batch(name, model, size)
    before = {k: v.clone() for k, v in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    losses = model(**batch, mode='loss')
    loss, _ = model.parse_losses(losses)
    assert loss.isfinite()
    loss.backward()
    # DDP rejects parameters without a gradient. A detector's heads may get no
    # positive sample.
    for part in (model.backbone, getattr(model, 'neck', None)):
        if part and not Config.fromfile(config).get('find_unused_parameters'):
            parameters = part.named_parameters()
            assert not [k for k, p in parameters if p.requires_grad and p.grad is None]
    optimizer.step()
    layers = sparse_layers(model)
    assert layers
    for layer_name, layer in layers.items():
        assert not torch.equal(layer.weight, before[f'{layer_name}.weight'])
        layer.set_progress(1)
        assert layer.is_finished
    checkpoint = tmp_path / 'trained.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    report = condense_checkpoint(
        str(config), str(checkpoint), tmp_path, input_shape=(size, size)
    )
    assert report.max_difference < 1e-4
    if ZOO[name].metadata.get('Parameters'):
        assert report.params[1] == ZOO[name].metadata['Parameters']
    assert report.macs[1] < report.macs[0]
