"""Images are read as mmcv reads them, or refused with a sentence."""

import io

import cv2
import mmcv
import numpy as np
import pytest
from mmcdnv2_runtime import ImageError
from mmcdnv2_runtime.images import load_image
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ORIENTATION = 0x0112


def written(tmp_path, image, suffix, **options):
    path = tmp_path / f'image.{suffix}'
    image.save(path, **options)
    return path


@pytest.fixture
def picture(photographs):
    return Image.fromarray(photographs[0]).crop((0, 0, 300, 200))


def encoded(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def pnm(magic, largest, image):
    """Encode a portable pixmap or graymap with a comment in its header."""
    values = np.asarray(image).astype(np.int64) * largest // 255
    head = f'P{magic}\n# scanner\n{image.width} {image.height}\n{largest}\n'.encode()
    if magic < 4:
        return head + ' '.join(map(str, values.flatten())).encode() + b'\n'
    return head + values.astype('>u2' if largest > 255 else np.uint8).tobytes()


def with_orientation(value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
    '"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF>'
    '</x:xmpmeta>'
)


def encodings():
    """Small images in what cameras, scanners and editors write."""
    pixels = np.random.RandomState(0).randint(0, 256, (12, 20, 4), np.uint8)
    transparent = Image.fromarray(pixels)
    image = transparent.convert('RGB')
    grey, palette, bits = (image.convert(mode) for mode in ('L', 'P', '1'))
    sixteen = np.asarray(grey).astype(np.uint16) * 257 + 200
    deep = cv2.imencode('.png', pixels[..., :3].astype(np.uint16) * 256 + 200)[1]
    software = Image.Exif()
    software[0x0131] = 'editor'
    note = PngInfo()
    note.add_itxt('XML:com.adobe.xmp', XMP)
    lossless, turned = dict(lossless=True), dict(exif=with_orientation(6))
    several = dict(save_all=True, append_images=[image.rotate(180)])
    table = {
        'xmp.jpg': encoded(image, 'JPEG', xmp=XMP.encode()),
        'exif.xmp.jpg': encoded(image, 'JPEG', xmp=XMP.encode(), exif=software),
        'exif1.xmp6.jpg': encoded(
            image, 'JPEG', xmp=XMP.encode(), exif=with_orientation(1)
        ),
        'cmyk.jpg': encoded(image.convert('CMYK'), 'JPEG'),
        'grey.jpg': encoded(grey, 'JPEG'),
        'progressive.jpg': encoded(image, 'JPEG', progressive=True),
        'image.png': encoded(image, 'PNG'),
        'exif.png': encoded(image, 'PNG', **turned),
        'xmp.png': encoded(image, 'PNG', pnginfo=note),
        'palette.png': encoded(palette, 'PNG', transparency=3),
        'bits.png': encoded(bits, 'PNG'),
        'transparent.png': encoded(transparent, 'PNG'),
        'transparent_grey.png': encoded(transparent.convert('LA'), 'PNG'),
        'sixteen.png': encoded(Image.fromarray(sixteen), 'PNG'),
        'deep.png': deep.tobytes(),
        'animated.png': encoded(image, 'PNG', **several),
        'image.webp': encoded(image, 'WEBP', **lossless),
        'exif.webp': encoded(image, 'WEBP', **lossless, **turned),
        'xmp.webp': encoded(image, 'WEBP', **lossless, xmp=XMP.encode()),
        'transparent.webp': encoded(transparent, 'WEBP', **lossless),
        'animated.webp': encoded(image, 'WEBP', **lossless, **several),
        'lossy.webp': encoded(image, 'WEBP'),
        'image.tif': encoded(image, 'TIFF'),
        'exif.tif': encoded(image, 'TIFF', **turned),
        'lzw.tif': encoded(image, 'TIFF', compression='tiff_lzw'),
        'cmyk.tif': encoded(image.convert('CMYK'), 'TIFF'),
        'palette.tif': encoded(palette, 'TIFF'),
        'bits.tif': encoded(bits, 'TIFF'),
        'sixteen.tif': encoded(Image.fromarray(sixteen), 'TIFF'),
        'transparent.tif': encoded(transparent, 'TIFF'),
        'image.bmp': encoded(image, 'BMP'),
        'palette.bmp': encoded(palette, 'BMP'),
        'transparent.bmp': encoded(transparent, 'BMP'),
        'bits.pbm': encoded(bits, 'PPM'),
    }
    for largest in (1, 15, 100, 255, 256, 1023, 4095, 65535):
        for magic, source in ((2, grey), (3, image), (5, grey), (6, image)):
            table[f'{magic}_{largest}.pnm'] = pnm(magic, largest, source)
    return table


@pytest.mark.parametrize(('name', 'content'), encodings().items(), ids=encodings())
def test_files_are_read_as_mmcv_does(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    expected = mmcv.imread(str(path), channel_order='rgb')
    loaded = load_image(path)
    assert (loaded.dtype, loaded.shape) == (np.uint8, expected.shape)
    tolerance = 1 if name == 'cmyk.jpg' else 0
    assert np.abs(loaded - 1.0 * expected).max() <= tolerance
    if path.suffix != '.pnm':
        with Image.open(path) as opened:
            np.testing.assert_array_equal(load_image(opened), loaded)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_turned_upright(tmp_path, picture, orientation):
    path = written(tmp_path, picture, 'jpg', exif=with_orientation(orientation))
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
        ('cut.pgm', b'P5 9 9 1023\n' + bytes(99), 'cut.pgm cannot be read: image file'),
        ('cut.ppm', b'P3 2 1 255\n1 2 3 4', 'cut.ppm cannot be read: image file is'),
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
