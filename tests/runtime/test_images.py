"""Images are read as mmcv reads them, or refused with a sentence."""

import io
import struct
import zlib

import cv2
import mmcv
import numpy as np
import pytest
from mmcdnv2_runtime import ImageError
from mmcdnv2_runtime.images import load_image
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ORIENTATION = 0x0112
HEIGHT, WIDTH = 23, 37
COLOURS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
DEEP = np.random.default_rng(1).integers(0, 1 << 16, (HEIGHT, WIDTH, 3), np.uint16)
COLOUR = Image.fromarray(COLOURS)
GREY = COLOUR.convert('L')
PALETTE = COLOUR.convert('P')
CLEAR = COLOUR.copy()
CLEAR.putalpha(GREY)


def written(tmp_path, image, suffix, **options):
    path = tmp_path / f'image.{suffix}'
    image.save(path, **options)
    return path


@pytest.fixture
def picture(photographs):
    return Image.fromarray(photographs[0]).crop((0, 0, 300, 200))


def saved(image, kind, **options):
    stream = io.BytesIO()
    # Of a copy: an image keeps the settings of its last encoder.
    image.copy().save(stream, kind, **options)
    return stream.getvalue()


def encoded(array, suffix):
    return cv2.imencode(suffix, array)[1].tobytes()


def turned(orientation, order='<', kind=3):
    """EXIF data of one tag, of a type."""
    value = struct.pack(f'{order}H2x' if kind == 3 else f'{order}I', orientation)
    head = struct.pack(f'{order}2sHI', b'II' if order == '<' else b'MM', 42, 8)
    entry = struct.pack(f'{order}HHHI', 1, ORIENTATION, kind, 1) + value
    return b'Exif\0\0' + head + entry + bytes(4)


def xmp(orientation):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/'
        '1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/'
        f'tiff/1.0/" tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
    )


def text_chunk(key, value):
    info = PngInfo()
    info.add_itxt(key, value)
    return saved(COLOUR, 'PNG', pnginfo=info)


def png(pixels, kind, *extra):
    """A PNG with chunks of its own; they come before the pixels."""
    depth = pixels.dtype.itemsize * 8
    head = struct.pack('>IIBBBBB', WIDTH, HEIGHT, depth, kind, 0, 0, 0)
    rows = pixels.astype(pixels.dtype.newbyteorder('>')).reshape(HEIGHT, -1)
    content = zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows))
    chunks = [(b'IHDR', head), *extra, (b'IDAT', content), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data))
        + name
        + data
        + struct.pack('>I', zlib.crc32(name + data))
        for name, data in chunks
    )


def tiff(pixels, **tags):
    """An uncompressed TIFF of colours, perhaps with alpha."""
    channels = pixels.shape[2]
    bits = pixels.dtype.itemsize * 8
    content = pixels.astype(pixels.dtype.newbyteorder('<')).tobytes()
    entries = {256: WIDTH, 257: HEIGHT, 258: [bits] * channels, 259: 1, 262: 2}
    entries.update({273: 8, 277: channels, 278: HEIGHT, 279: len(content)})
    entries.update({dict(extra=338)[name]: value for name, value in tags.items()})
    place = 8 + len(content)
    directory = struct.pack('<H', len(entries))
    for tag, value in sorted(entries.items()):
        if isinstance(value, list):
            directory += struct.pack('<HHII', tag, 3, len(value), place)
            bits_content = struct.pack(f'<{len(value)}H', *value)
        else:
            directory += struct.pack('<HHII', tag, 4 if tag != 338 else 3, 1, value)
    directory = bits_content + directory + bytes(4)
    head = struct.pack('<2sHI', b'II', 42, place + len(bits_content))
    return head + content + directory


def pnm(kind, pixels, maximum):
    head = f'{kind}\n# a comment\n{WIDTH} {HEIGHT}\n{maximum}\n'.encode()
    if kind in ('P5', 'P6'):
        return head + pixels.astype('>u2' if maximum > 255 else 'u1').tobytes()
    # A value a line, the first one with a comment.
    lines = '\n'.join(map(str, pixels.ravel().tolist()))
    return head + lines.replace('\n', ' # 9 8 7\n', 1).encode() + b'\n'


def bmp(pixels, masks=None):
    """A BMP of 16 bits."""
    pixels = np.pad(pixels[::-1].astype('<u2'), [(0, 0), (0, WIDTH % 2)])
    content = pixels.tobytes()
    masks = struct.pack('<III', *masks) if masks else b''
    head = struct.pack(
        '<IiiHHIIiiII',
        40,
        WIDTH,
        HEIGHT,
        1,
        16,
        3 if masks else 0,
        len(content),
        *(0, 0, 0, 0),
    )
    start = 14 + len(head) + len(masks)
    first = struct.pack('<2sIII', b'BM', start + len(content), 0, start)
    return first + head + masks + content


def jpeg_with(*segments):
    """A JPEG with APP1 segments in this order."""
    content = saved(COLOUR, 'JPEG')
    middle = b''.join(
        b'\xff\xe1' + struct.pack('>H', len(data) + 2) + data for data in segments
    )
    return content[:2] + middle + content[2:]


def orientations():
    xmp_head = b'http://ns.adobe.com/xap/1.0/\0'
    for number in range(1, 9):
        exif, text = turned(number), xmp(number)
        yield f'exif {number}.jpg', jpeg_with(exif)
        yield f'exif {number}.png', png(COLOURS, 2, (b'eXIf', exif[6:]))
        yield f'exif {number}.webp', saved(COLOUR, 'WEBP', exif=exif, lossless=True)
        yield f'xmp {number}.jpg', jpeg_with(xmp_head + text.encode())
        yield f'xmp {number}.png', text_chunk('XML:com.adobe.xmp', text)
        yield f'xmp {number}.webp', saved(COLOUR, 'WEBP', xmp=text, lossless=True)
        for image in (COLOUR, GREY, PALETTE, CLEAR):
            tag = {ORIENTATION: number}
            yield (
                f'{image.mode} {number}.tif',
                saved(image, 'TIFF', tiffinfo=tag),
            )
    yield 'xmp.tif', saved(COLOUR, 'TIFF', tiffinfo={700: xmp(6).encode()})
    yield 'big-endian.jpg', jpeg_with(turned(6, '>'))
    yield 'long.jpg', jpeg_with(turned(6, '<', 4))
    yield 'big-endian long.jpg', jpeg_with(turned(6, '>', 4))
    yield 'beyond 8.jpg', jpeg_with(turned(9))
    yield 'two exif.jpg', jpeg_with(turned(6), turned(3))
    yield 'exif and xmp.jpg', jpeg_with(turned(6), xmp_head + xmp(3).encode())
    yield 'xmp and exif.jpg', jpeg_with(xmp_head + xmp(3).encode(), turned(6))
    yield 'damaged exif.jpg', jpeg_with(b'Exif\0\0' + b'\xff' * 40)
    yield 'cut exif.jpg', jpeg_with(turned(6)[:20])
    yield 'damaged exif.png', png(COLOURS, 2, (b'eXIf', b'II*\0'))
    profile = turned(6).hex()
    text = f'\nexif\n{len(profile) // 2:8}\n{profile}\n'
    yield 'profile.png', text_chunk('Raw profile type exif', text)
    head = b'Exif\0\0'
    yield 'exif with a head.png', png(COLOURS, 2, (b'eXIf', head + turned(6)[6:]))


def depths():
    bits = COLOUR.convert('1')
    yield 'grey.png', saved(GREY, 'PNG')
    yield 'bits.png', saved(bits, 'PNG')
    yield 'bits.pbm', saved(bits, 'PPM')
    yield 'palette of 4.png', saved(COLOUR.quantize(4), 'PNG', bits=2)
    yield (
        'transparent palette.png',
        saved(PALETTE, 'PNG', transparency=bytes(range(256))),
    )
    yield 'transparent.png', saved(CLEAR, 'PNG')
    yield 'transparent grey.png', saved(CLEAR.convert('LA'), 'PNG')
    yield 'transparent colour.png', saved(COLOUR, 'PNG', transparency=(1, 2, 3))
    yield '16 bits.png', encoded(DEEP, '.png')
    yield '16 bits grey.png', encoded(DEEP[:, :, 0], '.png')
    yield '16 bits transparent grey.png', png(DEEP[:, :, :2], 4)
    yield 'gamma.png', png(COLOURS, 2, (b'gAMA', struct.pack('>I', 100000)))
    for maximum in (1, 15, 100, 254, 255, 256, 1000, 1023, 4095, 65534, 65535):
        values = DEEP.astype(int) % (maximum + 1)
        for kind in ('P2', 'P3', 'P5', 'P6'):
            pixels = values if kind in ('P3', 'P6') else values[:, :, 0]
            yield f'{kind} {maximum}.pnm', pnm(kind, pixels, maximum)
    # Values beyond their maximum.
    for kind, maximum in (('P2', 100), ('P5', 100), ('P2', 1000), ('P5', 1000)):
        yield f'{kind} beyond {maximum}.pnm', pnm(kind, COLOURS[:, :, 0] * 5, maximum)
    red, green, blue = np.moveaxis(COLOURS.astype(int), 2, 0) >> 3
    yield '555.bmp', bmp(red << 10 | green << 5 | blue)
    five_six_five = red << 11 | COLOURS[:, :, 1].astype(int) >> 2 << 5 | blue
    yield '565.bmp', bmp(five_six_five, (0xF800, 0x7E0, 0x1F))
    yield '32.bmp', saved(CLEAR, 'BMP')
    yield 'palette.bmp', saved(PALETTE, 'BMP')
    yield '16 bits grey.tif', encoded(DEEP[:, :, 0], '.tiff')
    yield 'cmyk.tif', saved(COLOUR.convert('CMYK'), 'TIFF')
    yield 'palette.tif', saved(PALETTE, 'TIFF', compression='tiff_lzw')
    yield 'bits.tif', saved(bits, 'TIFF', compression='group4')
    yield 'pages.tif', saved(COLOUR, 'TIFF', save_all=True, append_images=[GREY])
    yield 'transparent.tif', tiff(np.asarray(CLEAR), extra=2)
    yield 'fourth channel.tif', tiff(np.asarray(CLEAR), extra=0)
    yield 'transparent grey.tif', saved(CLEAR.convert('LA'), 'TIFF')


def formats():
    yield 'colour.jpg', saved(COLOUR, 'JPEG')
    yield 'grey.jpg', saved(GREY, 'JPEG')
    yield 'progressive.jpg', saved(COLOUR, 'JPEG', progressive=True, subsampling=2)
    yield 'cmyk.jpg', saved(COLOUR.convert('CMYK'), 'JPEG')
    yield 'mpo.jpg', saved(COLOUR, 'MPO', save_all=True, append_images=[GREY])
    yield 'lossy.webp', saved(COLOUR, 'WEBP')
    yield 'transparent.webp', saved(CLEAR, 'WEBP', lossless=True, exact=True)
    frames = dict(save_all=True, append_images=[COLOUR.rotate(180)])
    yield 'frames.webp', saved(COLOUR, 'WEBP', lossless=True, **frames)
    yield 'frames.png', saved(COLOUR, 'PNG', **frames)
    yield 'frames.gif', saved(PALETTE, 'GIF', **frames)
    yield 'transparent.gif', saved(PALETTE, 'GIF', transparency=3)
    yield 'colour.jp2', saved(COLOUR, 'JPEG2000')
    yield 'grey.jp2', saved(GREY, 'JPEG2000')
    yield 'transparent.jp2', saved(CLEAR, 'JPEG2000')


# Files that hold more than Pillow gives: premultiplied colours or 16 bits of each.
INEXACT = {
    'premultiplied.tif': tiff(
        np.dstack(
            [COLOURS.astype(int) * np.asarray(GREY)[:, :, None] // 255, GREY]
        ).astype(np.uint8),
        extra=1,
    ),
    '16 bits.tif': encoded(DEEP, '.tiff'),
}
ENCODINGS = {**dict(orientations()), **dict(depths()), **dict(formats()), **INEXACT}


@pytest.mark.parametrize('name', ENCODINGS)
def test_encodings_are_read_as_mmcv_does(tmp_path, name):
    """By mmcv's OpenCV; 4.10 to 4.12 read what is here alike."""
    content = ENCODINGS[name]
    path = tmp_path / name
    path.write_bytes(content)
    expected = mmcv.imread(str(path), flag='color', backend='cv2')
    if expected is None:
        pytest.skip(f'OpenCV {cv2.__version__} does not read it')
    loaded = load_image(path)
    assert (loaded.dtype, loaded.shape) == (np.uint8, expected.shape)
    difference = np.abs(loaded - expected[:, :, ::-1].astype(int)).max()
    assert difference <= (1 if name in INEXACT else 0)
    # As an image of Pillow it is the same.
    with Image.open(io.BytesIO(content)) as opened:
        np.testing.assert_array_equal(load_image(opened), loaded)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_turned_upright(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = written(tmp_path, picture, 'jpg', exif=exif)
    expected = mmcv.imread(str(path), channel_order='rgb')
    np.testing.assert_array_equal(load_image(path), expected)
    assert load_image(path).shape[0] == (300 if orientation > 4 else 200)
    # An image that was opened and changed since is turned, too.
    with Image.open(path) as opened:
        np.testing.assert_array_equal(load_image(opened.copy()), expected)


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
    floats = Image.fromarray(np.zeros((4, 4), np.float32))
    large = Image.fromarray(np.zeros((4, 4), np.int32))
    lab = saved(picture.convert('LAB'), 'TIFF')
    for name, content, message in (
        ('text.jpg', b'no image', 'text.jpg is no image that Pillow can read.'),
        ('empty.jpg', b'', 'empty.jpg is no image'),
        ('cut.jpg', jpeg[: len(jpeg) // 2], 'cut.jpg cannot be read: image file is'),
        (
            'float.tif',
            saved(floats, 'TIFF'),
            'cannot be read: its pixels are of mode F',
        ),
        ('lab.tif', lab, 'of mode LAB, which OpenCV reads otherwise; save it as an'),
        ('large.tif', saved(large, 'TIFF'), 'cannot be read: its pixels are of mode I'),
        ('few.pgm', pnm('P5', COLOURS[:, :, 0], 100)[:99], 'few.pgm cannot be read: '),
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
