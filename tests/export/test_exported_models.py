"""Exported files in the place of models."""

import subprocess
import sys

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from conftest import ROOT  # noqa: E402
from mmdet.apis import (  # noqa: E402
    DetInferencer,
    inference_detector,
    init_detector,
)
from mmdet.structures import DetDataSample  # noqa: E402
from mmpretrain import ImageClassificationInferencer  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402
from onnx_files import BOXES, classifier, detector  # noqa: E402

from mmcdnv2 import ExportedClassifier, ExportedDetector  # noqa: E402
from mmcdnv2.errors import InputError  # noqa: E402
from mmcdnv2.export import ExportedFile  # noqa: E402
from mmcdnv2.export.exported_models import (  # noqa: E402
    exported_config,
    use_exported_file,
)
from mmcdnv2.inference import open_checkpoint  # noqa: E402


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'small.onnx'


def pixels(seed, height=48, width=64):
    rng = np.random.RandomState(seed)
    # The channels' means are far apart.
    image = (
        rng.randint(0, 60, (3, height, width)) + np.array([0, 80, 160])[:, None, None]
    )
    return torch.from_numpy(image.astype(np.uint8))


def sample_of(ori_shape, scale_factor):
    return DetDataSample(
        metainfo=dict(
            ori_shape=ori_shape, scale_factor=scale_factor, img_shape=(48, 64)
        )
    )


def means(image):
    return image.float().mean((1, 2)) / 255


def test_classifies_as_pytorch_does(exported, digits):
    model = exported['classifier']
    images = sorted(map(str, (digits / 'classification' / 'val').rglob('*.png')))[:4]
    init_default_scope('mmpretrain')
    inferencer = ImageClassificationInferencer(exported_config(model.file))
    found = inferencer(images, batch_size=1)
    expected = open_checkpoint(model.config, model.checkpoint, 'cpu').inferencer(images)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(
            ours['pred_scores'], theirs['pred_scores'], atol=1e-6
        )
        assert ours['pred_label'] == theirs['pred_label']
        assert ours['pred_class'] == theirs['pred_class'] == str(ours['pred_label'])
    # They tell images from each other.
    assert np.ptp([each['pred_scores'] for each in found], axis=0).max() > 1e-4


def test_detects_as_pytorch_does(exported, digits):
    model = exported['detector']
    images = sorted(map(str, (digits / 'val').glob('*.png')))
    inferencer = DetInferencer(
        exported_config(model.file), device='cpu', palette='random'
    )
    assert inferencer.model.dataset_meta['classes'] == tuple('0123456789')
    found = inferencer(images, batch_size=2, return_datasamples=True)['predictions']
    expected = open_checkpoint(model.config, model.checkpoint, 'cpu').inferencer(
        images, return_datasamples=True
    )['predictions']
    assert len(found) == len(expected) == 3
    for ours, theirs in zip(found, expected):
        ours, theirs = ours.pred_instances, theirs.pred_instances
        assert len(ours) == len(theirs) > 10
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.bboxes, theirs.bboxes, atol=1e-2, rtol=0)
        assert torch.equal(ours.labels, theirs.labels)


def test_boxes_end_where_mmdetection_ends_them(exported, digits, tmp_path, monkeypatch):
    """It clips to the padded image: a box may pass the image's own border."""
    monkeypatch.syspath_prepend(ROOT / 'runtime')
    from mmcdnv2_runtime import Detector

    image = mmcv.imread(str(next((digits / 'val').glob('*.png'))))
    narrow = str(tmp_path / 'narrow.png')
    mmcv.imwrite(image[:150, :101], narrow)
    model = exported['detector']
    inferencer = DetInferencer(exported_config(model.file), device='cpu')
    found, expected = (
        each(narrow, return_datasamples=True)['predictions'][0].pred_instances
        for each in (
            inferencer,
            open_checkpoint(model.config, model.checkpoint, 'cpu').inferencer,
        )
    )
    assert (expected.bboxes[:, 2] > 105).any()
    torch.testing.assert_close(found.bboxes, expected.bboxes, atol=1e-2, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    alone = Detector(model.file)(narrow)
    np.testing.assert_allclose(alone.boxes, found.bboxes, atol=1e-4)
    np.testing.assert_array_equal(alone.labels, found.labels)


def test_is_built_from_a_config_in_either_scope(path):
    classifier(path)
    for kind in ('ExportedClassifier', 'mmpretrain.ExportedClassifier'):
        # As runners hand over what a config has for its network.
        part = dict(type=kind, file=str(path), data_preprocessor=dict(mean=[1, 2, 3]))
        assert type(MODELS.build(part)) is ExportedClassifier
    detector(path)
    part = dict(type='mmdet.ExportedDetector', file=str(path), threads=1)
    assert type(MODELS.build(part)) is ExportedDetector


@pytest.mark.parametrize('dynamic', [('batch', 'height', 'width'), ('height', 'width')])
def test_batches_of_any_sizes(path, dynamic, monkeypatch):
    model = ExportedDetector(detector(path, dynamic=dynamic))
    calls, run = [], model.file._run
    monkeypatch.setattr(
        model.file,
        '_run',
        lambda inputs: calls.append(inputs['images'].shape) or run(inputs),
    )
    equal = [pixels(0), pixels(1), pixels(2)]
    mixed = [pixels(3, 40, 40), pixels(4), pixels(5, 40, 40)]
    for images, number in ((equal, 1 if 'batch' in dynamic else 3), (mixed, 3)):
        calls.clear()
        samples = [sample_of((48, 64), (1.0, 1.0)) for _ in images]
        data = dict(inputs=images, data_samples=samples)
        for sample, image in zip(model.test_step(data), images):
            torch.testing.assert_close(sample.pred_instances.scores, means(image)[:2])
        assert len(calls) == number


def test_boxes_are_those_of_the_image_before_it_was_scaled(path):
    model = ExportedDetector(detector(path))
    # Width was doubled, height halved; the third box is beyond the count.
    sample = sample_of((80, 30), (2.0, 0.5))
    (found,) = model.predict([pixels(0)], [sample])
    assert found is sample
    expected = [[5, 40, 15, 120], [-2.5, 0, 25, 96]]
    assert found.pred_instances.bboxes.tolist() == expected
    assert found.pred_instances.labels.tolist() == [2, 0]
    # Without data samples, and without scaling back, they are the given image's.
    for arguments in ((), ([sample_of((80, 10), (2.0, 0.5))], False)):
        (found,) = model.predict([pixels(0)], *arguments)
        expected = [[10, 20, 30, 60], [-5, 0, 50, 48]]
        assert found.pred_instances.bboxes.tolist() == expected


def test_no_boxes(path):
    model = ExportedDetector(detector(path, count=0, masks=True))
    (found,) = model.predict([pixels(0)])
    assert found.pred_instances.bboxes.shape == (0, 4)
    assert found.pred_instances.masks.shape == (0, 48, 64)


def test_masks_are_pasted_into_their_boxes(path):
    model = ExportedDetector(detector(path, masks=True))
    (found,) = model.predict([pixels(0)], [sample_of((96, 128), (0.5, 0.5))])
    masks = found.pred_instances.masks
    assert masks.shape == (2, 96, 128) and masks.dtype == torch.bool
    # The first box is (20, 40, 60, 96) here, cut at the lower edge.
    rows, columns = (masks[0].any(dim).nonzero().flatten() for dim in (1, 0))
    assert (rows[0], rows[-1]) == (40, 95)
    assert abs(columns[0] - 20) <= 1 and abs(columns[-1] - 39) <= 1


def test_masks_have_the_files_threshold(path):
    """A mask falls from one to zero over a cell, 20 pixels wide here, at both sides."""
    sample = sample_of((480, 640), (0.1, 0.1))
    boxes = [(0.0, 0, 56, 40)] * 3
    widths = []
    for threshold in (0.1, 0.5, 0.9):
        detector(path, boxes, 1, masks=True, mask_threshold=threshold)
        (found,) = ExportedDetector(path).predict([pixels(0)], [sample])
        widths.append(int(found.pred_instances.masks[0, 200].sum()))
    assert widths == pytest.approx([288, 280, 264], abs=1)


def test_masks_of_boxes_beyond_the_image(path):
    """They are pasted by the whole box, as MMDetection does, and then cut."""
    boxes = ((-20.0, 10, 60, 90), (40, -30, 100, 20), (70, 10, 90, 30))
    model = ExportedDetector(detector(path, boxes, count=3, masks=True))
    (found,) = model.predict([pixels(0)])
    found = found.pred_instances
    assert found.bboxes.tolist() == [list(map(float, box)) for box in boxes]
    # The left half of each box: from -20 to 20, and from 40 to 70, of the 64 columns.
    expected = torch.zeros((3, 48, 64), dtype=torch.bool)
    expected[0, 10:, :20] = True
    expected[1, :20, 40:] = True
    assert (found.masks != expected).sum((1, 2)).tolist()[2] == 0
    # A pixel at each side may be either.
    columns = found.masks.any(1).long().sum(1)
    assert columns.tolist() == pytest.approx([20, 24, 0], abs=1)
    rows = found.masks.any(2).long().sum(1)
    assert rows.tolist() == pytest.approx([38, 20, 0], abs=1)


def test_init_detector_takes_it(path, tmp_path):
    step = dict(op='resize', mode='stretch', size=[48, 64])
    step.update(interpolation='bilinear', antialias=False)
    cfg = exported_config(detector(path, preprocess=[step]))
    model = init_detector(cfg, device='cpu')
    assert model.dataset_meta['classes'] == ('a', 'b', 'c')
    image = np.full((96, 128, 3), 200, np.uint8)
    mmcv.imwrite(image, str(tmp_path / 'image.png'))
    for given in (str(tmp_path / 'image.png'), image):
        found = inference_detector(model, given).pred_instances
        assert found.bboxes[0].tolist() == [20, 40, 60, 120]
        assert found.labels.tolist() == [2, 0]


def test_a_file_is_read_once_for_its_config_and_once_for_the_model(path, monkeypatch):
    from mmcdnv2.export import metadata

    read, calls = metadata.read_metadata, []
    monkeypatch.setattr(
        metadata, 'read_metadata', lambda *args: calls.append(args) or read(*args)
    )
    cfg = exported_config(detector(path))
    assert len(calls) == 1
    MODELS.build(cfg.model)
    assert len(calls) == 2


@pytest.mark.parametrize('order', ['BGR', 'RGB'])
@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_classifier_takes_what_mmcv_loads(path, order, dtype):
    """A file for RGB gets it, from the BGR that pipelines make."""
    model = ExportedClassifier(classifier(path, channel_order=order, dtype=dtype))
    image = pixels(0)
    expected = (0.05 * 255 * means(image)).softmax(0)
    expected = expected.flip(0) if order == 'RGB' else expected
    samples = model(image[None], [DataSample().set_gt_label(1)], mode='predict')
    torch.testing.assert_close(samples[0].pred_score, expected)
    assert samples[0].pred_label.tolist() == [2 if order == 'BGR' else 0]
    assert samples[0].gt_label.tolist() == [1]
    (outputs,) = model(image[None])
    torch.testing.assert_close(outputs['scores'], expected)
    # Without data samples there are new ones.
    assert len(model(torch.stack([image, image]), mode='predict')) == 2


def test_a_static_file_pads_smaller_images(path):
    preprocess = [
        dict(
            op='resize',
            mode='fit',
            long=64,
            short=48,
            interpolation='bilinear',
            antialias=False,
        ),
        dict(op='pad', size=[48, 64], value=[114, 14, 4]),
    ]
    detector(path, dynamic=('batch',), preprocess=preprocess)
    model = ExportedDetector(path)
    small, whole = pixels(0, 48, 30), pixels(1)
    padded = torch.tensor([114, 14, 4])[:, None, None].repeat(1, 48, 64).byte()
    padded[:, :, :30] = small
    for given, seen in ((small, padded), (whole, whole)):
        (found,) = model.predict([given])
        torch.testing.assert_close(found.pred_instances.scores, means(seen)[:2])
        assert found.pred_instances.bboxes.max() <= max(given.shape)
    with pytest.raises(InputError, match='height 50 instead of 48'):
        model.predict([pixels(0, 50, 64)])
    # Sizes that are open are left as they are.
    detector(path, preprocess=preprocess)
    (found,) = ExportedDetector(path).predict([small])
    torch.testing.assert_close(found.pred_instances.scores, means(small)[:2])


@pytest.mark.parametrize(
    ('metadata', 'reason'),
    [
        (dict(task='classification'), 'exported for classification; a file for detect'),
        (dict(task='features'), 'exported for features; a file for detection was'),
        (dict(raw=True), 'export it without --raw'),
        (dict(layout='NHWC'), 'in NHWC and BGR; uint8 or float32, NCHW'),
        (dict(channel_order='GRB'), 'in NCHW and GRB; uint8 or float32, NCHW'),
    ],
)
def test_refuses_a_file_that_does_not_fit(path, metadata, reason):
    detector(path, **metadata)
    cfg = Config(dict(default_scope='mmdet'))
    for use in (lambda: ExportedDetector(path), lambda: use_exported_file(cfg, path)):
        with pytest.raises(InputError, match=reason):
            use()
    assert 'model' not in cfg


def test_refuses_damaged_files(path):
    detector(path)
    content = path.read_bytes()
    # One of the boxes' corners.
    changed = content.replace(np.float32(60).tobytes(), np.float32(61).tobytes(), 1)
    assert changed != content
    path.write_bytes(changed)
    with pytest.raises(InputError, match='was changed since it was exported'):
        ExportedDetector(path)
    with pytest.raises(InputError, match='was changed since it was exported'):
        ExportedFile(path)
    # On purpose.
    (outputs,) = ExportedDetector(path, verify=False)(pixels(0)[None])
    assert 61 in outputs['boxes'] and outputs['counts'] == 2
    outputs = ExportedFile(path, verify=False)(pixels(0)[None].numpy())
    assert 61 in outputs['boxes']
    cfg = exported_config(path, verify=False)
    assert MODELS.build(cfg.model).file.metadata.task == 'detection'
    path.write_bytes(content[:100])
    with pytest.raises(InputError, match='is damaged or not an ONNX file'):
        ExportedDetector(path)
    with pytest.raises(InputError, match='classification or detection was expected'):
        exported_config(detector(path, task='features'))


@pytest.mark.parametrize(
    ('image', 'reason'),
    [
        (pixels(0).float(), 'uint8, got float32: leave out what makes'),
        (pixels(0)[:1], r'shape \(N, 3, H, W\), got \(1, 1, 48, 64\)'),
        (pixels(0, 48, 60), 'width 60 instead of 64'),
    ],
)
def test_refuses_images_that_it_does_not_take(path, image, reason):
    model = ExportedDetector(detector(path, dynamic=()))
    with pytest.raises(InputError, match=reason):
        model.predict([image])
    with pytest.raises(InputError, match='cannot be trained'):
        model([pixels(0)], mode='loss')


@pytest.mark.parametrize(
    ('dtype', 'images', 'reason'),
    [
        ('uint8', np.ones((1, 3, 48, 64)), 'uint8, got float64: leave out'),
        ('uint8', np.ones((1, 3, 48, 64), np.int64), 'uint8, got int64'),
        ('float32', np.ones((1, 3, 48, 64), complex), 'float32, got complex128'),
        ('uint8', np.ones((3, 48, 64), np.uint8), r'H, W\), got \(3, 48, 64\)'),
        ('uint8', np.ones((1, 1, 48, 64), np.uint8), r'got \(1, 1, 48, 64\)'),
    ],
)
def test_a_file_casts_no_pixels_to_others(path, dtype, images, reason):
    file = ExportedFile(detector(path, dtype=dtype))
    with pytest.raises(InputError, match=reason):
        file(images)


def test_floats_are_taken_where_the_file_takes_them(path):
    model = ExportedDetector(detector(path, dtype='float32'))
    for image in (pixels(0), pixels(0).float() + 0.25):
        (found,) = model.predict([image])
        torch.testing.assert_close(found.pred_instances.scores, means(image)[:2])


def test_knows_its_classes(path):
    model = ExportedDetector(detector(path))
    model.check_classes(dict(classes=['a', 'b', 'c']))
    model.check_classes({})
    # MMDetection's ConcatDataset has a list if its parts differ in anything.
    model.check_classes([dict(classes=['a', 'b', 'c'], palette=[1]), {}])
    with pytest.raises(InputError, match='3 classes and the data set 2'):
        model.check_classes([{}, dict(classes=('a', 'b'))])
    with pytest.raises(InputError, match='3 classes and the data set 2'):
        model.check_classes(dict(classes=('a', 'b')))
    with pytest.raises(InputError, match="'b' as class 1 and the data set 'x'"):
        model.check_classes(dict(classes=('a', 'x', 'c')))
    # Whatever an inferencer takes for them.
    model.dataset_meta = dict(classes=('person',), palette='random')
    assert model.dataset_meta == dict(classes=('a', 'b', 'c'), palette='random')
    model = ExportedDetector(detector(path, classes=()))
    model.check_classes(dict(classes=('a', 'b')))
    model.dataset_meta = dict(classes=('person',))
    assert model.dataset_meta == dict(classes=None)


def test_takes_the_place_of_a_configs_model(path):
    cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(type='RetinaNet', backbone=dict(type='ResNet')),
            load_from='x.pth',
            resume=True,
            custom_hooks=[dict(type='mmdet.EMAHook'), dict(type='ChannelsLastHook')],
        )
    )
    use_exported_file(cfg, detector(path), threads=2)
    assert cfg.model == dict(
        type='ExportedDetector',
        file=str(path),
        engine='onnxruntime',
        threads=2,
        verify=True,
    )
    assert (cfg.load_from, cfg.resume) == (None, False)
    assert [hook.type for hook in cfg.custom_hooks] == ['ChannelsLastHook']


def test_config_of_a_file_has_its_pipeline(path):
    steps = [
        dict(
            op='resize',
            mode='fit',
            long=1333,
            short=800,
            interpolation='bilinear',
            antialias=False,
        )
    ]
    cfg = exported_config(detector(path, preprocess=steps))
    kinds = [each.type for each in cfg.test_dataloader.dataset.pipeline]
    assert kinds == ['LoadImageFromFile', 'Resize', 'PackDetInputs']
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1333, 800)
    assert exported_config(classifier(path)).default_scope == 'mmpretrain'


def test_openvino_gives_the_same(path):
    pytest.importorskip('openvino')
    detector(path)
    found = [
        ExportedDetector(path, engine, threads=1).predict([pixels(0), pixels(1)])
        for engine in ('onnxruntime', 'openvino')
    ]
    for ours, theirs in zip(*found):
        torch.testing.assert_close(
            ours.pred_instances.scores, theirs.pred_instances.scores
        )
        assert torch.equal(ours.pred_instances.bboxes, theirs.pred_instances.bboxes)
    assert BOXES[0] == tuple(found[1][0].pred_instances.bboxes[0, :3].tolist()) + (60,)


def test_the_packages_of_an_export_are_not_needed_otherwise():
    code = (
        'import sys\n'
        'sys.modules.update(onnx=None, onnxruntime=None, onnxscript=None)\n'
        'import mmcdnv2, mmcdnv2.cli, mmcdnv2.inference\n'
        'try:\n'
        "    mmcdnv2.ExportedDetector('x.onnx')\n"
        'except ValueError as error:\n'
        '    print(error)'
    )
    command = [sys.executable, '-W', 'ignore', '-c', code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert 'onnx must be installed' in done.stdout, done.stderr
