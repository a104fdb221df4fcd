"""The demo's data: what is annotated is what can be seen."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmpretrain.datasets import CustomDataset

from mmcdnv2.datasets import digits as module
from mmcdnv2.datasets.digits import (
    DEMO,
    STUDY,
    ClassificationStyle,
    DigitPainter,
    make_classification,
    make_digits,
)
from mmcdnv2.errors import InputError

# Mean of the red, green and blue of the demo's first images, and their labels, as
# they were when the demo's was the only style.
DEMO_IMAGES = {
    'train': (
        [
            [31.8, 30.9, 27.6],
            [112.8, 118.5, 120.2],
            [70.5, 64.0, 61.5],
            [80.9, 77.3, 57.7],
            [57.2, 49.1, 52.3],
            [58.8, 40.3, 47.6],
            [61.2, 72.6, 67.9],
            [60.1, 79.0, 82.1],
        ],
        [1, 5, 8, 1, 2, 7, 5, 8],
    ),
    'val': (
        [
            [72.3, 75.7, 66.1],
            [39.7, 37.3, 33.6],
            [59.4, 54.3, 58.5],
            [43.3, 43.3, 39.1],
            [57.9, 53.4, 64.1],
            [65.4, 59.3, 55.1],
            [38.8, 33.4, 45.3],
            [70.7, 52.7, 70.8],
        ],
        [4, 2, 1, 7, 6, 8, 7, 3],
    ),
}


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_splits_share_no_digit():
    train, val = DigitPainter('train'), DigitPainter('val')
    assert len(train.digits) + len(val.digits) == 1797
    images = {digit.tobytes() for digit in train.digits}
    assert not images & {digit.tobytes() for digit in val.digits}
    # All classes, about equally often, in both.
    for painter in (train, val):
        assert (
            np.bincount(painter.labels, minlength=10).min() > len(painter.labels) / 14
        )


def test_boxes_enclose_what_changed():
    painter = DigitPainter('train')
    seen = dict(empty=0, border=0)
    for _ in range(40):
        canvas = painter.background(96)
        before = canvas.astype(int)
        ink = painter.ink(painter.rng.randint(len(painter.digits)), 48)
        left, top = painter.rng.randint(-24, 72, 2)
        box = painter.paint(canvas, ink, left, top)
        changed = np.abs(canvas - before).max(2) > 0
        if box is None:
            seen['empty'] += 1
            continue
        x, y, width, height = box
        assert x >= 0 and y >= 0 and x + width <= 96 and y + height <= 96
        seen['border'] += x == 0 or y == 0 or x + width == 96 or y + height == 96
        inside = np.zeros((96, 96), bool)
        inside[max(top, 0) : top + 48, max(left, 0) : left + 48] = True
        assert not (changed & ~inside).any()
        # The strongest ink lies in the box and reaches all of its edges.
        shown = np.full((96, 96), 0.0)
        full = np.zeros((240, 240))
        full[top + 72 : top + 120, left + 72 : left + 120] = ink
        shown = full[72:168, 72:168] > 0.3
        rows, columns = np.where(shown)
        assert (rows.min(), rows.max()) == (y, y + height - 1)
        assert (columns.min(), columns.max()) == (x, x + width - 1)
    assert seen['border'] > 0


def test_is_deterministic(digits, tmp_path):
    again = tmp_path / 'again'
    make_digits(again, num_train=6, num_val=3, num_classification=30)
    files = sorted(p.relative_to(digits) for p in digits.rglob('*') if p.is_file())
    assert files == sorted(
        p.relative_to(again) for p in again.rglob('*') if p.is_file()
    )
    for name in files:
        assert (digits / name).read_bytes() == (again / name).read_bytes()


def test_reads_as_coco(digits):
    dataset = CocoDataset(
        ann_file='annotations/train.json',
        data_root=str(digits),
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=tuple('0123456789')),
    )
    content = json.loads((digits / 'annotations' / 'train.json').read_text())
    assert len(dataset) == 6
    labels = [each['bbox_label'] for item in dataset for each in item['instances']]
    assert labels == [each['category_id'] for each in content['annotations']]
    image = cv2.imread(dataset[0]['img_path'])
    assert image.shape == (192, 192, 3)


def test_some_images_are_empty():
    painter = DigitPainter('val')
    counts = [len(painter.detection_image()[1]) for _ in range(100)]
    assert 5 < counts.count(0) < 30
    assert max(counts) == 6


def test_existing_folder_is_left_alone(digits):
    before = sorted(digits.rglob('*'))
    with pytest.raises(InputError, match='exists already'):
        make_digits(digits)
    assert sorted(digits.rglob('*')) == before


@pytest.mark.parametrize('split', ['train', 'val'])
def test_the_demos_style_has_not_changed(split):
    painter = DigitPainter(split)
    painted = [painter.classification_image() for _ in range(8)]
    means, labels = DEMO_IMAGES[split]
    assert [label for _, label in painted] == labels
    # Versions of OpenCV and JPEG decoders may differ by rounding.
    colours = [image.mean((0, 1)) for image, _ in painted]
    np.testing.assert_allclose(colours, means, atol=0.3)


@pytest.fixture(scope='module')
def study_data(tmp_path_factory):
    root = tmp_path_factory.mktemp('study') / 'data'
    make_classification(root, num_train=60, num_val=20)
    return root


def test_study_is_deterministic(study_data, tmp_path):
    before = files_of(study_data)
    assert len(before) == 80
    make_classification(tmp_path / 'again', num_train=60, num_val=20)
    assert files_of(tmp_path / 'again') == before
    make_classification(tmp_path / 'other', num_train=60, num_val=20, seed=1)
    assert not set(files_of(tmp_path / 'other').values()) & set(before.values())
    # No image twice, in no split.
    assert len(set(before.values())) == 80


def test_study_labels_are_the_folders(study_data):
    for split, count in (('train', 60), ('val', 20)):
        dataset = CustomDataset(data_root=str(study_data), data_prefix=split)
        assert ''.join(dataset.CLASSES) == '0123456789'
        assert len(dataset) == count
        painter = DigitPainter(split)
        painted = [painter.classification_image(STUDY) for _ in range(count)]
        for i in range(count):
            item = dataset.get_data_info(i)
            image, label = painted[int(Path(item['img_path']).stem)]
            assert item['gt_label'] == label
            read = cv2.imread(item['img_path'])[..., ::-1]
            np.testing.assert_array_equal(read, image)
            assert read.shape == (32, 32, 3)


@pytest.mark.parametrize(
    'change',
    [
        dict(dimming=0.0),
        dict(rotation=40.0),
        dict(shear=30.0),
        dict(neighbours=1),
        dict(opacity=0.3),
        dict(noise=20.0),
        dict(digit_size=(20, 30)),
        dict(size=56),
    ],
)
def test_every_setting_of_a_style_shows(change):
    plain = [DigitPainter('train').classification_image(DEMO)[0] for _ in range(2)]
    np.testing.assert_array_equal(*plain)
    style = replace(DEMO, **change)
    image, _ = DigitPainter('train').classification_image(style)
    assert image.dtype == np.uint8
    assert image.shape == (style.size, style.size, 3)
    assert image.shape != plain[0].shape or (image != plain[0]).any()


@pytest.mark.parametrize('size', [(7, 20), (20, 16), (20, 33)])
def test_digits_that_do_not_fit_are_refused(size):
    with pytest.raises(InputError, match='from 8 to the image.s 32 pixels, got'):
        ClassificationStyle(size=32, digit_size=size)


def test_study_refuses_an_existing_folder(study_data):
    before = files_of(study_data)
    with pytest.raises(InputError, match='exists already'):
        make_classification(study_data, 1, 1)
    assert files_of(study_data) == before


@pytest.mark.parametrize('make', [make_classification, make_digits])
def test_an_interrupted_run_leaves_nothing(make, tmp_path, monkeypatch):
    images = []

    def write(path, image):
        images.append(path)
        if len(images) == 3:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(module.cv2, 'imwrite', write)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / 'data')
    assert len(images) == 3
    assert not list(tmp_path.iterdir())
