"""The demo's data: what is annotated is what can be seen."""

import json

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset

from mmcdnv2.datasets.digits import DigitPainter, make_digits
from mmcdnv2.errors import InputError


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
