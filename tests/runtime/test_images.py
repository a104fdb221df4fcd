"""Images are read as mmcv reads them, or refused with a sentence."""

import io

import mmcv
import numpy as np
import pytest
from mmcdnv2_runtime import ImageError
from mmcdnv2_runtime.images import load_image
from PIL import Image

ORIENTATION = 0x0112


def written(tmp_path, image, suffix, **options):
    path = tmp_path / f'image.{suffix}'
    image.save(path, **options)
    return path


@pytest.fixture
def picture(photographs):
    return Image.fromarray(photographs[0]).crop((0, 0, 300, 200))


def kinds(picture):
    transparent = picture.copy()
    transparent.putalpha(picture.convert('L'))
    sixteen = np.asarray(picture.convert('L')).astype(np.uint16) * 257 + 5
    return {
        'colour.jpg': picture,
        'colour.png': picture,
        'grey.jpg': picture.convert('L'),
        'grey.png': picture.convert('L'),
        'palette.png': picture.convert('P'),
        'bits.png': picture.convert('1'),
        'transparent.png': transparent,
        'transparent_grey.png': transparent.convert('LA'),
        'sixteen.png': Image.fromarray(sixteen),
        'cmyk.jpg': picture.convert('CMYK'),
        'colour.bmp': picture,
    }


def test_files_are_read_as_mmcv_does(tmp_path, picture):
    for name, image in kinds(picture).items():
        image.save(tmp_path / name)
        expected = mmcv.imread(str(tmp_path / name), channel_order='rgb')
        loaded = load_image(tmp_path / name)
        assert (loaded.dtype, loaded.shape) == (np.uint8, (200, 300, 3)), name
        tolerance = 1 if name == 'cmyk.jpg' else 0
        assert np.abs(loaded - 1.0 * expected).max() <= tolerance, name
        # As an image of Pillow it is the same.
        with Image.open(tmp_path / name) as opened:
            np.testing.assert_array_equal(load_image(opened), loaded)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_turned_upright(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = written(tmp_path, picture, 'jpg', exif=exif)
    expected = mmcv.imread(str(path), channel_order='rgb')
    np.testing.assert_array_equal(load_image(path), expected)
    assert load_image(path).shape[0] == (300 if orientation > 4 else 200)


def test_arrays_in_their_order(picture):
    pixels = np.asarray(picture)
    alpha = np.full((*pixels.shape[:2], 1), 9, np.uint8)
    for array, order in (
        (pixels, 'RGB'),
        (pixels[:, :, ::-1], 'BGR'),
        (np.concatenate([pixels, alpha], 2), 'RGB'),
        (np.concatenate([pixels[:, :, ::-1], alpha], 2), 'BGR'),
    ):
        np.testing.assert_array_equal(load_image(array, order), pixels)
    grey = pixels[:, :, 1]
    for array in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(load_image(array), np.stack([grey] * 3, 2))


@pytest.mark.parametrize(
    ('array', 'order', 'message'),
    [
        (np.zeros((4, 4, 3), np.uint8), None, "'RGB' or 'BGR'"),
        (np.zeros((4, 4, 3), np.uint8), 'rgb', "'RGB' or 'BGR'"),
        (np.zeros((4, 4, 2), np.uint8), 'RGB', r'but got one of \(4, 4, 2\)'),
        (np.zeros((0, 4, 3), np.uint8), 'RGB', r'but got one of \(0, 4, 3\)'),
        (np.zeros(4, np.uint8), 'RGB', r'but got one of \(4,\)'),
        (np.zeros((4, 4, 3), np.float32), 'RGB', 'uint8 was expected .* float32'),
    ],
)
def test_arrays_that_are_no_images(array, order, message):
    with pytest.raises(ImageError, match=message):
        load_image(array, order)


def test_files_that_are_no_images(tmp_path, picture):
    jpeg = written(tmp_path, picture, 'jpg').read_bytes()
    tiff = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tiff, 'TIFF')
    for name, content, message in (
        ('text.jpg', b'no image', 'text.jpg is no image that Pillow can read.'),
        ('empty.jpg', b'', 'empty.jpg is no image'),
        ('cut.jpg', jpeg[: len(jpeg) // 2], 'cut.jpg cannot be read: image file is'),
        ('float.tif', tiff.getvalue(), 'float.tif cannot be read: its pixels are'),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ImageError, match=message) as error:
            load_image(path)
        assert str(error.value).count('\n') == 0
    with pytest.raises(ImageError, match='none.jpg cannot be read: No such file'):
        load_image(tmp_path / 'none.jpg')
    with pytest.raises(ImageError, match='cannot be read: Is a directory'):
        load_image(str(tmp_path))


def test_too_large_files(tmp_path, picture, monkeypatch):
    path = written(tmp_path, picture, 'png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    with pytest.raises(ImageError, match='is too large: Image size'):
        load_image(path)
