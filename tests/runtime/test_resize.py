"""The runtime's images are those that the networks were tested on."""

import cv2
import mmcv
import numpy as np
import pytest
from mmcdnv2_runtime.preprocess import parse_steps, prepare
from mmcdnv2_runtime.resize import resize
from mmcv.transforms import CenterCrop
from mmcv.transforms import Resize as StretchResize
from mmdet.datasets.transforms import Pad, Resize
from mmpretrain.datasets.transforms import ResizeEdge
from PIL import Image


def random_part(photographs, rng):
    """A part of a photograph, as small as one pixel."""
    image = photographs[rng.integers(2)]
    top, left = rng.integers(0, 300, 2)
    height, width = rng.integers(1, 128), rng.integers(1, 340)
    return np.ascontiguousarray(image[top : top + height, left : left + width])


@pytest.mark.parametrize(
    ('interpolation', 'flag'),
    [('bilinear', cv2.INTER_LINEAR), ('bicubic', cv2.INTER_CUBIC)],
)
def test_resizing_is_opencvs(photographs, interpolation, flag):
    rng = np.random.default_rng(0)
    unequal = []
    for number in range(60):
        image = random_part(photographs, rng)
        size = tuple(int(side) for side in rng.integers(1, 500, 2))
        if number % 10 == 0:
            # OpenCV averages then.
            size = tuple(max(1, side // 2) for side in image.shape[:2])
        expected = cv2.resize(image, size[::-1], interpolation=flag)
        difference = np.abs(resize(image, size, interpolation, False) - 1.0 * expected)
        assert difference.max() <= 1
        unequal.append((difference > 0).mean())
    assert np.mean(unequal) < 0.002


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_resizing_with_antialias_is_pillows(photographs, interpolation):
    rng = np.random.default_rng(1)
    flag = getattr(Image.Resampling, interpolation.upper())
    for _ in range(20):
        image = random_part(photographs, rng)
        size = tuple(int(side) for side in rng.integers(1, 300, 2))
        expected = np.asarray(Image.fromarray(image).resize(size[::-1], flag))
        np.testing.assert_array_equal(
            resize(image, size, interpolation, True), expected
        )
    if interpolation == 'bilinear':
        other = mmcv.imresize(image, size[::-1], backend='pillow')
        np.testing.assert_array_equal(expected, other)


def step(mode, **options):
    return dict(
        op='resize', mode=mode, interpolation='bilinear', antialias=False, **options
    )


def mapped(prepared, point):
    """Where a point of the image is in the network's input."""
    pairs = zip(point, prepared.scale, prepared.offset)
    return [value * scale - offset for value, scale, offset in pairs]


PIPELINES = {
    'fit': (
        [step('fit', long=333, short=200)],
        [Resize(scale=(333, 200), keep_ratio=True)],
    ),
    'stretch': (
        [step('stretch', size=[160, 224])],
        [Resize(scale=(224, 160), keep_ratio=False)],
    ),
    'fit and pad': (
        [
            step('fit', long=320, short=320),
            dict(op='pad', size=[320, 320], value=[114, 114, 114]),
        ],
        [
            Resize(scale=(320, 320), keep_ratio=True),
            Pad(size=(320, 320), pad_val=dict(img=(114, 114, 114))),
        ],
    ),
    'short side and crop': (
        [step('short_side', size=96), dict(op='crop', size=[83, 84])],
        [ResizeEdge(scale=96, edge='short'), CenterCrop(crop_size=(84, 83))],
    ),
    'crop': ([dict(op='crop', size=[60, 61])], [CenterCrop(crop_size=(61, 60))]),
}


@pytest.mark.parametrize('name', PIPELINES)
def test_steps_are_those_of_the_pipelines(photographs, name):
    steps, transforms = PIPELINES[name]
    rng = np.random.default_rng(2)
    for _ in range(12):
        image = random_part(photographs, rng)
        if min(image.shape[:2]) < 4:
            continue
        results = dict(img=image, img_shape=image.shape[:2])
        for transform in transforms:
            results = transform(results)
        prepared = prepare(image, parse_steps(steps))
        assert prepared.pixels.shape == results['img'].shape
        assert np.abs(prepared.pixels - 1.0 * results['img']).max() <= 1
        if 'fit' in name:
            np.testing.assert_allclose(prepared.scale, results['scale_factor'])


def test_points_go_where_their_pixels_go():
    image = np.zeros((90, 70, 3), np.uint8)
    image[60, 40] = 255
    steps = [
        dict(op='crop', size=[80, 60]),
        step('stretch', size=[240, 120]),
        dict(op='crop', size=[200, 100]),
    ]
    prepared = prepare(image, parse_steps(steps))
    height, width = prepared.pixels.shape[:2]
    assert (height, width) == (200, 100)
    weights = prepared.pixels[:, :, 0] / prepared.pixels[:, :, 0].sum()
    centre = [
        (weights.sum(0) * (np.arange(width) + 0.5)).sum(),
        (weights.sum(1) * (np.arange(height) + 0.5)).sum(),
    ]
    np.testing.assert_allclose(mapped(prepared, (40.5, 60.5)), centre, atol=0.1)


def test_stretch_is_mmcvs_resize_too(photographs):
    image = photographs[0]
    results = StretchResize(scale=(100, 50))(dict(img=image))
    prepared = prepare(image, parse_steps([step('stretch', size=[50, 100])]))
    assert np.abs(prepared.pixels - 1.0 * results['img']).max() <= 1
