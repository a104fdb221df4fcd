"""Predictions on images: what is found, drawn and written."""

import json
import shutil

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

from conftest import save_checkpoint  # noqa: E402
from onnx_files import classifier, detector  # noqa: E402

from mmcdnv2.errors import InputError  # noqa: E402
from mmcdnv2.inference import (  # noqa: E402
    Failure,
    open_checkpoint,
    open_exported_file,
    predict_images,
)

RESIZE = dict(op='resize', interpolation='bilinear', antialias=False)


@pytest.fixture
def images(tmp_path):
    """Two images of one name, one that is no image, and one that is missing."""
    folder = tmp_path / 'images'
    paths = [folder / 'a' / '1.png', folder / 'b' / '1.png', folder / 'broken.jpg']
    for i, path in enumerate(paths[:2]):
        pixels = np.zeros((96, 128 + 40 * i, 3), np.uint8)
        pixels[...] = (200 - 50 * i, 120, 40)
        mmcv.imwrite(pixels, str(path))
    paths[2].write_bytes(b'no image')
    return [str(path) for path in (*paths, folder / 'missing.png')]


@pytest.fixture
def detector_file(tmp_path):
    # Half of the image's size, which is left to it.
    step = dict(RESIZE, mode='fit', long=10**4, short=48)
    return detector(tmp_path / 'detector.onnx', preprocess=[step])


@pytest.fixture
def classifier_file(tmp_path):
    step = dict(RESIZE, mode='stretch', size=[48, 64])
    return classifier(tmp_path / 'classifier.onnx', dynamic=(), preprocess=[step])


def test_what_is_found_in_an_exported_detector(images, detector_file, tmp_path):
    predictor = open_exported_file(detector_file, threads=1)
    assert (predictor.task, predictor.classes) == ('detection', ['a', 'b', 'c'])
    out = tmp_path / 'out'
    results = predict_images(predictor, images, out, tmp_path / 'also.json', model='x')
    first, second, *failures = results
    assert [each.name for each in first.found] == ['c', 'a']
    assert [each.score for each in first.found] == pytest.approx([200 / 255, 120 / 255])
    # Twice the file's boxes.
    assert [each.box for each in first.found] == [(20, 40, 60, 120), (-10, 0, 100, 96)]
    assert first.milliseconds > 0
    assert failures == [
        Failure(images[2], 'It is not an image that can be read.'),
        Failure(images[3], 'There is no such file.'),
    ]
    # Neither picture is the other's.
    assert sorted(path.name for path in out.iterdir()) == [
        '1.png',
        '1_2.png',
        'predictions.json',
    ]
    assert (first.picture, second.picture) == (str(out / '1.png'), str(out / '1_2.png'))
    for result, image in zip((first, second), images):
        picture, original = mmcv.imread(result.picture), mmcv.imread(image)
        assert picture.shape == original.shape
        changed = (picture != original).any(2)
        assert 0.005 < changed.mean() < 0.6
        # Colours are those of the image; the corner is in no box.
        assert (picture[-1, -1] == original[-1, -1]).all()
    content = json.loads((out / 'predictions.json').read_text())
    assert content == json.loads((tmp_path / 'also.json').read_text())
    assert content['task'] == 'detection' and content['model'] == 'x'
    assert content['images'][0] == dict(
        image=images[0],
        found=[
            dict(
                label=2,
                name='c',
                score=first.found[0].score,
                box=[20, 40, 60, 120],
                mask=None,
            ),
            dict(
                label=0,
                name='a',
                score=first.found[1].score,
                box=[-10, 0, 100, 96],
                mask=None,
            ),
        ],
        milliseconds=first.milliseconds,
        picture=str(out / '1.png'),
    )
    assert content['images'][3] == dict(image=images[3], error='There is no such file.')


def test_only_what_is_wanted_is_found_and_drawn(images, detector_file, tmp_path):
    predictor = open_exported_file(detector_file)
    pictures = []
    for threshold, top, number in (
        (0.0, None, 2),
        (0.5, None, 1),
        (0.0, 1, 1),
        (0.9, 5, 0),
    ):
        predictor.score_threshold, predictor.top = threshold, top
        (result,) = predict_images(predictor, images[:1], tmp_path / f'{len(pictures)}')
        assert len(result.found) == number
        pictures.append(mmcv.imread(result.picture))
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[1] == pictures[2]).all()
    assert (pictures[3] == mmcv.imread(images[0])).all()


def test_masks_are_written_as_coco_writes_them(images, tmp_path):
    from pycocotools import mask as coco

    file = detector(tmp_path / 'masks.onnx', masks=True)
    out = tmp_path / 'out'
    ((found, _),) = (
        each.found for each in predict_images(open_exported_file(file), images[:1], out)
    )
    content = json.loads((out / 'predictions.json').read_text())
    mask = coco.decode(content['images'][0]['found'][0]['mask'])
    assert mask.shape == (96, 128)
    assert mask.sum() == pytest.approx(10 * 40, rel=0.1)
    assert found.box == (10, 20, 30, 60)


def test_what_is_found_in_an_exported_classifier(images, classifier_file, tmp_path):
    predictor = open_exported_file(classifier_file)
    results = predict_images(predictor, images[:2], tmp_path / 'out')
    logits = 0.05 * torch.tensor([200.0, 120, 40])
    scores = logits.softmax(0).tolist()
    assert [each.name for each in results[0].found] == ['a', 'b', 'c']
    assert [each.score for each in results[0].found] == pytest.approx(scores, rel=1e-4)
    assert results[0].found[0].box is None
    # Small images are drawn larger, so that the text can be read.
    assert mmcv.imread(results[0].picture).shape == (224, 298, 3)
    predictor.top = 1
    assert len(predict_images(predictor, images[:1])[0].found) == 1


@pytest.mark.parametrize('which', [[3], [2, 3]])
def test_nothing_is_written_if_no_image_can_be_used(
    images, detector_file, tmp_path, which
):
    predictor = open_exported_file(detector_file)
    bad = [images[i] for i in which]
    reason = (
        'missing.png: There is no such' if len(bad) == 1 else 'None of 2 .*broken.jpg'
    )
    with pytest.raises(InputError, match=reason):
        predict_images(predictor, bad, tmp_path / 'out', tmp_path / 'x.json')
    assert not (tmp_path / 'out').exists() and not (tmp_path / 'x.json').exists()


def test_an_image_that_fails_does_not_stop_the_others(images, tmp_path):
    """The file takes one size, and what cannot be scaled fails elsewhere."""
    file = detector(tmp_path / 'one.onnx', dynamic=(), size=(96, 128))
    predictor = open_exported_file(file)
    found = predict_images(predictor, images[:2])
    assert len(found[0].found) == 2
    assert 'width 168 instead of 128' in found[1].error
    thin = str(tmp_path / 'thin.png')
    mmcv.imwrite(np.zeros((1, 400, 3), np.uint8), thin)
    step = dict(RESIZE, mode='fit', long=100, short=100)
    predictor = open_exported_file(detector(tmp_path / 'fit.onnx', preprocess=[step]))
    results = predict_images(predictor, [thin, images[0]])
    assert results[0].error.startswith('It cannot be predicted on: error: OpenCV')
    assert len(results[1].found) == 2


def test_no_file_of_the_user_is_lost(images, detector_file, tmp_path):
    predictor = open_exported_file(detector_file)
    folder = tmp_path / 'images' / 'a'
    before = (folder / '1.png').read_bytes()
    with pytest.raises(InputError, match='would be replaced by its picture'):
        predict_images(predictor, images, folder)
    assert (folder / '1.png').read_bytes() == before
    with pytest.raises(InputError, match=r'broken.jpg is not a folder'):
        predict_images(predictor, images, images[2])
    with pytest.raises(InputError, match='is a folder: the name of a file'):
        predict_images(predictor, images, None, folder)
    # An older picture stays if there is no new one.
    out = tmp_path / 'out'
    out.mkdir()
    shutil.copy(images[0], out / 'broken.jpg')
    predict_images(predictor, images, out)
    assert (out / 'broken.jpg').read_bytes() == before


def test_nothing_is_written_if_something_cannot_be(images, detector_file, tmp_path):
    predictor = open_exported_file(detector_file)
    out = tmp_path / 'out'
    with pytest.raises(InputError, match='broken.jpg cannot be a folder'):
        predict_images(predictor, images, out, f'{images[2]}/x.json')
    assert not out.exists()
    (out / '1_2.png').mkdir(parents=True)
    with pytest.raises(InputError, match='1_2.png is a folder'):
        predict_images(predictor, images, out)
    assert [path.name for path in out.iterdir()] == ['1_2.png']


def test_a_full_disk_leaves_whole_files(images, detector_file, tmp_path, small_files):
    predictor = open_exported_file(detector_file)
    out = tmp_path / 'out'
    predict_images(predictor, images, out)
    whole = {path.name for path in out.iterdir()}
    for path in out.iterdir():
        path.write_text('old')
    refused = pytest.raises(InputError, match=r'1\.png cannot be written .File too lar')
    with small_files(100), refused:
        predict_images(predictor, images, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(
        whole, 'old'
    )
    predict_images(predictor, images, out)
    assert {path.name for path in out.iterdir() if path.stat().st_size > 3} == whole


@pytest.fixture
def renamed(checkpoints, tmp_path):
    """The checkpoints, with names of classes or without any."""

    def save(name, **meta):
        content = torch.load(checkpoints[name], weights_only=True)
        path = str(tmp_path / 'renamed.pth')
        torch.save(dict(meta=meta, state_dict=content['state_dict']), path)
        return path

    return save


@pytest.mark.parametrize('name', ['classifier', 'detector'])
def test_classes_of_a_checkpoint(tiny_configs, renamed, name):
    names = [f'class {i}' for i in range(10)]
    for meta in (dict(dataset_meta=dict(CLASSES=names)), dict(CLASSES=names)):
        checkpoint = renamed(name, **meta)
        predictor = open_checkpoint(tiny_configs[name], checkpoint, 'cpu')
        assert predictor.classes == names
    # Names of other data do not count.
    other = renamed(name, CLASSES=[*names, 'class 10'])
    predictor = open_checkpoint(tiny_configs[name], other, 'cpu')
    assert 'class 0' not in predictor.classes
    # Those of the data set: the config names the detector's.
    predictor = open_checkpoint(tiny_configs[name], renamed(name), 'cpu')
    assert predictor.classes == ([] if name == 'classifier' else list('0123456789'))


def test_weights_must_fit_exactly(tiny_configs, checkpoints, tmp_path):
    content = torch.load(checkpoints['detector'], weights_only=True)
    del content['state_dict']['neck.fpn_convs.0.conv.bias']
    path = str(tmp_path / 'less.pth')
    torch.save(content, path)
    with pytest.raises(InputError, match=r'neck\.fpn_convs\.0\.conv\.bias'):
        open_checkpoint(tiny_configs['detector'], path, 'cpu')
    with pytest.raises(InputError, match='does not hold the weights of this network'):
        open_checkpoint(tiny_configs['classifier'], checkpoints['detector'], 'cpu')


def test_configs_that_do_not_tell_what_to_do(tiny_configs, checkpoints, tmp_path):
    cfg = Config.fromfile(tiny_configs['detector'])
    config = str(tmp_path / 'config.py')
    for changes, reason in (
        (dict(test_dataloader=None), 'has no test pipeline'),
        (dict(model=None), 'has no model'),
        (dict(default_scope='mmseg'), "default_scope='mmseg'; mmpretrain"),
    ):
        changed = Config({**cfg._cfg_dict, **changes})
        changed.dump(config)
        with pytest.raises(InputError, match=reason):
            open_checkpoint(config, checkpoints['detector'], 'cpu')


def test_a_wrapped_data_set_and_few_colours(tiny_configs, tmp_path, images):
    """Repeated and concatenated data; and more classes than COCO has colours for."""
    cfg = Config.fromfile(tiny_configs['detector'])
    repeated = dict(type='RepeatDataset', times=2, dataset=cfg.test_dataloader.dataset)
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[repeated])
    config = str(tmp_path / 'config.py')
    cfg.model.roi_head.bbox_head.num_classes = 100
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    cfg.dump(config)
    checkpoint = save_checkpoint(config, str(tmp_path / 'random.pth'))
    content = torch.load(checkpoint, weights_only=True)
    names = [f'class {i}' for i in range(100)]
    content['meta'] = dict(dataset_meta=dict(classes=names))
    torch.save(content, checkpoint)
    predictor = open_checkpoint(config, checkpoint, 'cpu')
    assert predictor.inferencer.model.dataset_meta['palette'] == 'random'
    predictor.score_threshold, predictor.top = 0.0, 3
    (result,) = predict_images(predictor, images[:1], tmp_path / 'out')
    assert len(result.found) == 3
    assert result.found[0].name == f'class {result.found[0].label}'
    assert result.found[0].score >= result.found[1].score >= result.found[2].score


def test_names_of_other_data_are_not_drawn(tiny_configs, renamed, tmp_path, images):
    """The configs' data sets have 80 and 1000 classes, the models ten."""
    for name, kind in (('detector', 'CocoDataset'), ('classifier', 'ImageNet')):
        cfg = Config.fromfile(tiny_configs[name])
        pipeline = cfg.test_dataloader.dataset.pipeline
        cfg.test_dataloader.dataset = dict(type=kind, data_root='', pipeline=pipeline)
        if name == 'detector':
            cfg.test_dataloader.dataset.ann_file = ''
        config = str(tmp_path / 'config.py')
        cfg.dump(config)
        predictor = open_checkpoint(config, renamed(name), 'cpu')
        predictor.score_threshold, predictor.top = 0.0, 3
        (result,) = predict_images(predictor, images[:1], tmp_path / name)
        assert predictor.classes == [] and len(result.found) == 3
        assert all(each.name == str(each.label) for each in result.found)
        assert (tmp_path / name / '1.png').is_file()
