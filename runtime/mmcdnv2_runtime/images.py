"""Reads images as mmcv does: upright, in three channels of 8 bits."""

import os
import re
import struct
from typing import Any, Optional, Tuple, Union

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import ImageError, first_line

# Tags of TIFF and EXIF.
_ORIENTATION, _EXTRA_SAMPLES = 0x0112, 338
# The bits of red, green and blue in a BMP of 16, by Pillow's names.
_BITS = {'BGR;15': (0xF8, 0xF8, 0xF8), 'BGR;16': (0xF8, 0xFC, 0xF8)}

ImageLike = Union[str, 'os.PathLike[str]', Image.Image, np.ndarray]


def load_image(image: ImageLike, order: Optional[str] = None) -> np.ndarray:
    """Make an array of an image.

    Args:
        image (str | Path | Image.Image | np.ndarray): A file, Pillow's image,
            or an array of uint8, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
            Files and Pillow's images are turned as OpenCV turns them, by EXIF
            but not by XMP.
        order (str, optional): The channels of an array, 'RGB' or 'BGR'; grey
            ones need none. Defaults to None.

    Returns:
        np.ndarray: uint8, (H, W, 3), in the order RGB.

    Raises:
        ImageError: If it cannot be read, or is no such array.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, order)
    if isinstance(image, Image.Image):
        return _from_pillow(image, 'the image')
    name = os.fspath(image)
    try:
        # Given a path, Pillow maps the file into memory and garbles a turned TIFF.
        with open(image, 'rb') as stream, Image.open(stream) as opened:
            return _from_pillow(opened, name)
    except UnidentifiedImageError as error:
        raise ImageError(f'{name} is no image that Pillow can read.') from error
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise ImageError(f'{name} cannot be read: {reason}.') from error
    except Image.DecompressionBombError as error:
        raise ImageError(f'{name} is too large: {first_line(error)}.') from error


def _from_array(image: np.ndarray, order: Optional[str]) -> np.ndarray:
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size:
        raise ImageError(
            'An array of (height, width) or (height, width, channels) with 1, 3 or 4 '
            f'channels was expected as image, but got one of {image.shape}.'
        )
    if image.dtype != np.uint8:
        raise ImageError(
            f'An array of uint8 was expected as image, but got {image.dtype}.'
        )
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if order not in ('RGB', 'BGR'):
        raise ImageError(
            "Say whether the array's channels are 'RGB' or 'BGR' (the argument order)."
        )
    return image[:, :, :3] if order == 'RGB' else image[:, :, 2::-1]


def _from_pillow(image: Image.Image, name: str) -> np.ndarray:
    try:
        pixels = _raw_pnm(image)
        if pixels is None:
            pixels = _pixels(image)
        return _upright(_from_array(pixels, 'RGB'), _orientation(image))
    # Decoders raise whatever they come upon in damaged files.
    except Exception as error:
        raise ImageError(f'{name} cannot be read: {first_line(error)}.') from error


# Formats have attributes of their own, so what follows takes an Any.
def _tile(image: Any) -> Tuple[Any, ...]:
    """Return decoder, box, offset and arguments of an image not yet decoded."""
    tiles = getattr(image, 'tile', None)
    return tuple(tiles[0]) if tiles else (None, None, 0, None)


def _raw_pnm(image: Any) -> Optional[np.ndarray]:
    """Read a PGM or PPM that Pillow would scale to its maximum value.

    OpenCV scales 8-bit values in plain files only, and takes the upper 8 of 16 bits
    whatever the maximum. None for other images.
    """
    decoder, _, offset, args = _tile(image)
    if decoder not in ('ppm', 'ppm_plain') or image.mode == '1':
        return None
    image.fp.seek(offset)
    content = image.fp.read()
    maximum = args[1]
    shape = (image.height, image.width, len(image.getbands()))
    count = int(np.prod(shape))
    if decoder == 'ppm':
        values = np.frombuffer(content, '>u2' if maximum > 255 else 'u1', count)
    else:
        words = re.sub(rb'#[^\r\n]*', b'', content).split()[:count]
        values = np.array(words, np.int64).clip(0, maximum)
    if maximum > 255:
        values = values >> 8
    elif decoder == 'ppm_plain':
        values = values * 255 // maximum
    return values.reshape(shape).astype(np.uint8)


def _pixels(image: Any) -> np.ndarray:
    """Decode an image to grey or RGB as OpenCV does, where Pillow differs."""
    if image.format == 'TIFF' and _ORIENTATION not in image.tag_v2:
        # Pillow turns a TIFF while decoding it, by XMP too; OpenCV by its tag alone.
        image.getexif()[_ORIENTATION] = 1
    args = _tile(image)[3]
    image.load()
    kind = (image.format, image.mode)
    if image.mode in ('F', 'LAB') or kind == ('TIFF', 'I'):
        raise ValueError(
            f'its pixels are of mode {image.mode}, which OpenCV reads otherwise; save '
            'it as an 8-bit PNG'
        )
    if image.mode.startswith('I'):
        # 16 bits, of which Pillow would not take the upper eight.
        values = np.asarray(image).astype(np.int64) >> 8
        return values.clip(0, 255).astype(np.uint8)
    if kind == ('JPEG', 'CMYK'):
        inks, black = np.split(np.asarray(image).astype(np.int64), [3], axis=2)
        return (255 - black - (inks * (255 - black) >> 8)).astype(np.uint8)
    if kind == ('TIFF', 'RGBA') and image.tag_v2.get(_EXTRA_SAMPLES, (0,))[0]:
        colours, alpha = np.split(np.asarray(image).astype(np.int64), [3], axis=2)
        return ((colours * alpha + 127) // 255).astype(np.uint8)
    pixels = np.asarray(image.convert('RGB'))
    if image.format == 'BMP' and args and args[0] in _BITS:
        # Pillow spreads 5 bits over 8; OpenCV leaves the lower bits zero.
        pixels = pixels & np.array(_BITS[args[0]], np.uint8)
    return pixels


def _orientation(image: Any) -> int:
    """Return the orientation that OpenCV 4.10 to 4.12 finds.

    It reads the first APP1 segment of a JPEG and the eXIf chunk of a PNG, but no XMP,
    WebP or AVIF metadata. Pillow has turned a TIFF already.
    """
    if image.format in ('JPEG', 'MPO'):
        segments = (data for name, data in image.applist if name == 'APP1')
        exif = next(segments, b'')
    elif image.format in ('PNG', None):
        exif = image.info.get('exif', b'')
    else:
        return 1
    order = {b'Exif\0\0II*\0': '<', b'Exif\0\0MM\0*': '>'}.get(exif[:10])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f'{order}I', exif, 10)
        (count,) = struct.unpack_from(f'{order}H', exif, 6 + start)
        for entry in range(count):
            place = 8 + start + 12 * entry
            tag, value = struct.unpack_from(f'{order}H6xH', exif, place)
            if tag == _ORIENTATION:
                return value
    except struct.error:
        pass
    return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
