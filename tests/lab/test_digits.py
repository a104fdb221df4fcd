"""The digits: annotations match the visible digits."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmpretrain.datasets import CustomDataset

from lab.digits import (
    STUDY,
    ClassificationStyle,
    DigitPainter,
    make_classification,
    make_digits,
)
from mmcdnv2.errors import InputError

# Mean RGB values and labels of the demo's first images, from before there were styles.
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
    # Both have all classes, about equally often.
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
        # The visible ink touches all edges of the box.
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
def test_the_demo_style_is_unchanged(split):
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
    # All images differ, in and across splits.
    assert len(set(before.values())) == 80


def test_study_folders_are_the_labels(study_data):
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


def on_black(count=60, label=None, **changes):
    """Return grey images of digits on black."""
    style = ClassificationStyle(dimming=1e9, **changes)
    painter = DigitPainter('train')
    painted = [painter.classification_image(style) for _ in range(count)]
    return [x.mean(2) for x, y in painted if label is None or y == label]


def test_style_sets_sizes():
    for image in on_black(20, size=40, digit_size=(10, 12)):
        rows, columns = np.where(image > 40)
        assert image.shape == (40, 40)
        assert 5 < max(np.ptp(rows), np.ptp(columns)) <= 14


def test_style_dims():
    painter = DigitPainter('train')
    bright = [
        painter.classification_image(ClassificationStyle(dimming=d))[0].mean()
        for d in [0.0, 1e9] * 10
    ]
    assert np.mean(bright[::2]) > np.mean(bright[1::2]) + 30


def test_style_adds_noise():
    clean, noisy = on_black(1)[0], on_black(1, noise=20.0)[0]
    changed = noisy - clean
    # On black, negative noise is clipped, which leaves half of a normal distribution.
    assert changed[clean == 0].mean() == pytest.approx(20 / np.sqrt(2 * np.pi), rel=0.1)


def test_style_makes_digits_transparent():
    peaks = [image.max() for image in on_black(opacity=0.2)]
    # Opaque digits have grey levels of at least 170.
    assert 170 * 0.2 < min(peaks) < 90
    assert max(peaks) > 170
    assert min(image.max() for image in on_black()) > 170


def test_style_adds_neighbours():
    counts = []
    for image in on_black(40, size=96, digit_size=(24, 24), neighbours=3):
        border = np.concatenate([image[:3], image[-3:], image.T[:3], image.T[-3:]])
        counts.append((border > 60).sum())
    assert counts.count(0) in range(2, 25)
    alone = on_black(40, size=96, digit_size=(24, 24))
    assert np.mean(counts) > 10 * np.mean([(x[:3] > 60).sum() for x in alone])


def test_style_rotates_and_shears():
    def spread(**changes):
        """Return the standard deviation of the angle of ones."""
        angles = []
        for image in on_black(400, label=1, **changes):
            axis = np.linalg.eigh(np.cov(np.where(image > 60)))[1][:, -1]
            angles.append(np.rad2deg(np.arctan(axis[1] / axis[0])))
        return np.std(angles)

    upright = spread()
    assert spread(rotation=45.0) > 1.5 * upright
    assert spread(shear=45.0) > 1.5 * upright


@pytest.mark.parametrize('size', [(7, 20), (20, 16), (20, 33)])
def test_rejects_digits_that_do_not_fit(size):
    with pytest.raises(InputError, match='from 8 to the image.s 32 pixels, got'):
        ClassificationStyle(size=32, digit_size=size)


def test_study_rejects_an_existing_folder(study_data):
    before = files_of(study_data)
    with pytest.raises(InputError, match='exists already'):
        make_classification(study_data, 1, 1)
    assert files_of(study_data) == before


@pytest.mark.parametrize('make', [make_classification, make_digits])
def test_an_interrupted_run_leaves_nothing(make, tmp_path, monkeypatch):
    images = []

    def write(path, content):
        images.append(path)
        if len(images) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, 'write_bytes', write)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / 'data')
    assert len(images) == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('size', [500, 3000, 20000])
def test_a_full_disk_leaves_nothing(size, tmp_path, small_files):
    out = tmp_path / 'new' / 'data'
    raises = pytest.raises(InputError, match='data cannot be written .File too large')
    with raises, small_files(size):
        make_digits(out, num_train=2, num_val=1, num_classification=2)
    assert not list(tmp_path.iterdir())
    make_digits(out, num_train=2, num_val=1, num_classification=2)
    assert all(path.stat().st_size for path in out.rglob('*.png'))


@pytest.mark.parametrize('make', [make_classification, make_digits])
def test_rejects_a_folder_below_a_file(make, tmp_path):
    (tmp_path / 'file').write_text('text')
    with pytest.raises(InputError, match='file/new cannot be a folder: .*Not a dir'):
        make(tmp_path / 'file' / 'new' / 'data')
    assert files_of(tmp_path) == {'file': b'text'}


def test_a_folder_that_is_removed_while_writing(tmp_path, monkeypatch):
    real, images = Path.write_bytes, []

    def write(path, content):
        images.append(path)
        if len(images) == 3:
            shutil.rmtree(path.parents[1])
        return real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'write_bytes', write)
        with pytest.raises(InputError, match='data cannot be written .No such file'):
            make_digits(tmp_path / 'data', 4, 2, 2)
    assert not list(tmp_path.iterdir())
