"""The recipes against what the papers' authors trained with."""

from copy import deepcopy
from pathlib import Path

import mmcv
import mmdet
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import RandAugment

from lab.digits import STUDY, make_classification
from mmcdnv2.builder import build_model, input_shape_of
from mmcdnv2.engine import SparsificationHook
from mmcdnv2.layers import sparse_layers

# The authors augment by timm's 'rand-m9-mstd0.5'. With timm 1.0.31, the
# photographs below as RGB and
#   hparams = dict(translate_const=28, img_mean=(124, 116, 104))
# the pixels of rand_augment_transform('rand-m9-mstd0.5', hparams) differ from the
# photograph's by this fraction of the full scale, in the mean over 40000 draws.
MEAN_CHANGE = 0.152
# The same by AugmentOp(name, prob=1, magnitude=level, hparams=hparams) at levels
# 8, 9 and 10, over 1000 draws.
CHANGES = {
    'AutoContrast': (0.033, 0.033, 0.033),
    'Equalize': (0.158, 0.158, 0.158),
    'Invert': (0.618, 0.618, 0.618),
    'Rotate': (0.161, 0.171, 0.18),
    'Posterize': (0.057, 0.057, 0.028),
    'Solarize': (0.171, 0.113, 0.0),
    'SolarizeAdd': (0.231, 0.26, 0.289),
    'ColorTransform': (0.03, 0.038, 0.046),
    'Contrast': (0.075, 0.09, 0.101),
    'Brightness': (0.123, 0.151, 0.177),
    'Sharpness': (0.009, 0.012, 0.014),
    'Shear horizontal': (0.17, 0.18, 0.189),
    'Shear vertical': (0.152, 0.164, 0.175),
    'Translate horizontal': (0.295, 0.293, 0.285),
    'Translate vertical': (0.274, 0.284, 0.293),
}
WARPS = {'Rotate', *(name for name in CHANGES if ' ' in name)}


@pytest.fixture(scope='module')
def photographs():
    datasets = pytest.importorskip('sklearn.datasets')
    return [
        mmcv.imresize(photo[..., ::-1], (64, 64), None, 'bicubic', backend='pillow')
        for photo in datasets.load_sample_images().images
    ]


@pytest.fixture(scope='module')
def augmented():
    return Config.fromfile(ROOT / 'configs/cdnv2_a_8xb128_in1k.py')


@pytest.fixture
def pipeline(augmented):
    init_default_scope('mmpretrain')
    return augmented.train_dataloader.dataset.pipeline


@pytest.fixture
def operations(pipeline):
    """The operations of RandAugment, always applied, by their names."""
    (augment,) = (t for t in Compose(pipeline).transforms if type(t) is RandAugment)
    assert augment.num_policies == 2
    found = {}
    for operation in augment:
        name = f'{type(operation).__name__} {getattr(operation, "direction", "")}'
        found.setdefault(name.strip(), []).append(operation)
        assert operation.prob == 0.5
        operation.prob = 1.0
    return found


def change(transform, image):
    image = image.astype(np.uint8)
    out = transform(dict(img=image.copy()))['img']
    assert out.dtype == np.uint8
    return np.abs(out.astype(float) - image).mean() / 255


def at_level(operation, level):
    operation = deepcopy(operation)
    if operation.magnitude_range:
        assert (operation.magnitude_level, operation.magnitude_std) == (9, 0.5)
        operation.magnitude_level, operation.magnitude_std = level, 0
    return operation


def test_augmentation_changes_as_much_as_the_authors(pipeline, photographs):
    types = [transform.type for transform in pipeline]
    first, last = types.index('RandomFlip') + 1, types.index('RandomErasing')
    transform = Compose(pipeline[first:last])
    np.random.seed(0)
    changes = [change(transform, photo) for photo in photographs for _ in range(600)]
    # Four standard errors. It was 0.220 with the set that increases, and jitter.
    assert np.mean(changes) == pytest.approx(MEAN_CHANGE, abs=0.02)


@pytest.mark.parametrize('name', CHANGES)
def test_operation_is_as_strong_as_the_authors(name, operations, photographs):
    assert set(operations) == set(CHANGES)
    assert len({len(same) for same in operations.values()}) == 1, 'equally likely'
    for level, expected in zip((8, 9, 10), CHANGES[name]):
        changes = []
        for operation in operations[name]:
            operation = at_level(operation, level)
            signs = (operation.random_negative_prob,)
            if name in WARPS:
                assert signs == (0.5,)
                signs = (0, 1)
            for operation.random_negative_prob in signs:
                changes += [change(operation, photo) for photo in photographs]
        assert np.mean(changes) == pytest.approx(expected, abs=0.003), level


@pytest.mark.parametrize('level', [7.3, 7.49, 7.51, 9, 9.41, 9.99, 10])
def test_steps_are_where_the_authors_have_them(level, operations):
    ramp = np.arange(256)
    shift = 8 - int(level / 10 * 4)
    threshold, added = int(level / 10 * 256), int(level / 10 * 110)
    expected = dict(
        Posterize=ramp >> shift << shift,
        Solarize=np.where(ramp < threshold, ramp, 255 - ramp),
        SolarizeAdd=np.where(ramp < 128, np.minimum(ramp + added, 255), ramp),
    )
    for name, values in expected.items():
        for operation in operations[name]:
            image = np.repeat(ramp.astype(np.uint8)[None, :, None], 3, axis=2)
            out = at_level(operation, level)(dict(img=image))['img']
            assert (out == values[None, :, None]).all(), name


def test_what_moves_is_filled_with_the_mean_at_either_interpolation(operations):
    # BGR, as it is read.
    image = np.full((32, 32, 3), (104, 116, 124), np.uint8)
    for name in WARPS:
        used = [operation.interpolation for operation in operations[name]]
        assert sorted(used) == ['bicubic', 'bilinear']
        for operation in operations[name]:
            assert change(operation, image) == 0


def test_crops_at_either_interpolation(pipeline):
    crop = Compose(pipeline[1:2])
    image = np.zeros((64, 8, 8, 3), np.uint8)
    image[:, 1::2] = 200
    image = image.reshape(64, 64, 3)
    np.random.seed(0)
    overshoots = [crop(dict(img=image))['img'].max() > 200 for _ in range(40)]
    # Only the bicubic one rings at edges.
    assert 5 < sum(overshoots) < 35


def test_learning_rate_is_the_papers(augmented):
    length = 20
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1))], augmented.optim_wrapper.optimizer.lr
    )
    default = dict(optimizer=optimizer, epoch_length=length)
    schedulers = [
        PARAM_SCHEDULERS.build(cfg, default_args=default)
        for cfg in augmented.param_scheduler
    ]
    rates = []
    for iteration in range(1, length * augmented.train_cfg.max_epochs + 1):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            if iteration % length == 0 or not scheduler.by_epoch:
                scheduler.step()
    warmup, cosine = rates[: 5 * length], rates[5 * length :]
    assert warmup == pytest.approx(np.linspace(0.1, 0.4, 5 * length))
    assert cosine[0] == pytest.approx(0.4)
    assert cosine[345 * length // 2] == pytest.approx(0.2, rel=0.01)
    assert cosine[-1] < 1e-4


def test_weight_decay_is_the_papers(augmented):
    init_default_scope('mmpretrain')
    wrapper = build_optim_wrapper(build_model(augmented), augmented.optim_wrapper)
    for group in wrapper.param_groups:
        (parameter,) = group['params']
        assert group['weight_decay'] == (0 if parameter.ndim == 1 else 4e-5)


def test_the_rest_is_the_papers(augmented):
    averaging = next(h for h in augmented.custom_hooks if h.type == 'EMAHook')
    assert averaging.momentum == pytest.approx(1 - 0.9998)
    logits, target = torch.randn(2, 1000), torch.tensor([3, 7])
    expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    loss = build_model(augmented).head.loss_module
    torch.testing.assert_close(loss(logits, target), expected)
    for arch, interpolation in dict(a='bicubic', b='bicubic', c='bilinear').items():
        cfg = Config.fromfile(ROOT / f'configs/cdnv2_{arch}_8xb128_in1k.py')
        for loader in (cfg.val_dataloader, cfg.test_dataloader):
            _, resize, crop, _ = loader.dataset.pipeline
            assert (resize.scale, resize.interpolation) == (256, interpolation)
            assert crop.crop_size == 224


@pytest.fixture
def study():
    return Config.fromfile(ROOT / 'configs/study/digits.py')


def test_study_has_one_network(study):
    cifar = Config.fromfile(ROOT / 'configs/study/study_cifar10.py')
    assert cifar.model == study.model
    assert cifar.optim_wrapper == study.optim_wrapper
    backbone = build_model(study).backbone
    size = input_shape_of(study)
    assert size == input_shape_of(cifar) == (STUDY.size, STUDY.size)
    maps = backbone(torch.zeros(1, 3, *size))
    assert maps[-1].shape[1] == study.model.head.in_channels


def test_study_trains(study, tmp_path):
    make_classification(tmp_path / 'data', num_train=128, num_val=20)
    for loader in (study.train_dataloader, study.val_dataloader):
        loader.dataset.data_root = str(tmp_path / 'data')
    study.test_dataloader = study.val_dataloader
    study.work_dir = str(tmp_path / 'trained')
    runner = Runner.from_cfg(study)
    runner.train()
    epochs = study.max_epochs
    assert runner.iter == 2 * epochs
    assert all(layer.is_finished for layer in sparse_layers(runner.model).values())
    # Tested and saved once, at the end.
    accuracies = runner.message_hub.get_scalar('val/accuracy/top1')
    assert len(accuracies.data[0]) == 1
    saved = [path.name for path in (tmp_path / 'trained').glob('*.pth')]
    assert saved == [f'epoch_{epochs}.pth']


def without_scopes(node):
    """What a config says, without where its base files' names are looked up."""
    if isinstance(node, dict):
        return {k: without_scopes(v) for k, v in node.items() if k != '_scope_'}
    if isinstance(node, (list, tuple)):
        return [without_scopes(child) for child in node]
    return node


def test_rtmdet_learns_as_mmdetections():
    ours = Config.fromfile(ROOT / 'configs/rtmdet_cdnv2_a_8xb32-300e_coco.py')
    theirs = Config.fromfile(
        Path(mmdet.__path__[0]) / '.mim/configs/rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
    )
    for key in (
        'train_dataloader',
        'val_dataloader',
        'val_evaluator',
        'train_cfg',
        'optim_wrapper',
        'param_scheduler',
        'default_hooks',
    ):
        assert without_scopes(ours[key]) == without_scopes(theirs[key]), key
    # Its own is that of another recipe, 16.
    assert ours.auto_scale_lr.base_batch_size == 8 * ours.train_dataloader.batch_size
    # The sparsification is all that is added, and over before the rest changes.
    *hooks, sparsification = ours.custom_hooks
    assert without_scopes(hooks) == without_scopes(theirs.custom_hooks)
    assert sparsification == dict(type='SparsificationHook')
    end = SparsificationHook().end * ours.train_cfg.max_epochs
    cosine, switch = ours.param_scheduler[1], hooks[1]
    assert end == cosine.begin < switch.switch_epoch


@pytest.mark.parametrize(
    ('config', 'size'),
    [
        ('rtmdet_cdnv2_a_8xb32-300e_coco', 640),
        ('rtmdet_cdnv2_a_8xb32-320-300e_coco', 320),
        ('gfl_cdnv2_a_pafpn_8xb32-416-300e_coco', 416),
    ],
)
def test_detection_pipelines_give_one_size(config, size):
    cfg = Config.fromfile(ROOT / f'configs/{config}.py')
    init_default_scope('mmdet')
    rng = np.random.RandomState(0)

    def image():
        boxes = np.array([[10, 20, 200, 230], [60, 50, 300, 220]], np.float32)
        return dict(
            img=rng.randint(0, 256, (240, 330, 3)).astype(np.uint8),
            img_id=0,
            img_path='',
            img_shape=(240, 330),
            ori_shape=(240, 330),
            gt_bboxes=HorizontalBoxes(boxes),
            gt_bboxes_labels=np.array([1, 2]),
            gt_ignore_flags=np.zeros(2, bool),
        )

    stage1 = cfg.train_dataloader.dataset.pipeline
    stage2 = next(h for h in cfg.custom_hooks if 'switch_pipeline' in h).switch_pipeline
    for pipeline in (stage1, stage2, cfg.test_dataloader.dataset.pipeline):
        steps = [
            TRANSFORMS.build(step)
            for step in pipeline
            if not step['type'].startswith('Load')
        ]
        for _ in range(3):
            results = image()
            for step in steps:
                if hasattr(step, 'get_indexes'):
                    results['mix_results'] = [image() for _ in range(4)]
                results = step(results)
            assert results['inputs'].shape == (3, size, size)
