"""Read images as mmcv does by OpenCV: upright, in three channels of 8 bits."""

import os
import re
from pathlib import Path
from typing import Optional, Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError, first_line

_ORIENTATION, _EXTRA_SAMPLES = 0x0112, 0x0152
# Header of a portable pixmap or graymap: magic number, width, height, largest value.
_PNM = re.compile(rb'P([2356])' + rb'\s+(?:#[^\n]*\n\s*)*(\d+)' * 3 + rb'\s')

ImageLike = Union[str, 'os.PathLike[str]', Image.Image, np.ndarray]


def load_image(image: ImageLike, order: Optional[str] = None) -> np.ndarray:
    """Make an array of an image.

    Args:
        image (str | Path | Image.Image | np.ndarray): A file, Pillow's image,
            or an array of uint8, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
            Files and Pillow's images are turned by their EXIF orientation.
            Transparency is ignored, except in TIFF files.
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
        with Image.open(image) as opened:
            if opened.format == 'PPM':
                pixels = _from_pnm(Path(image).read_bytes())
                if pixels is not None:
                    return _from_array(pixels, 'RGB')
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


def _from_pnm(content: bytes) -> Optional[np.ndarray]:
    """Decode a pixmap or graymap, whose values Pillow scales otherwise than OpenCV.

    Args:
        content (bytes): The file.

    Returns:
        np.ndarray | None: uint8, (H, W, 1) or (H, W, 3). None for a bitmap and other
        formats of this family.

    Raises:
        OSError: If the file is truncated.
    """
    header = _PNM.match(content)
    if header is None:
        return None
    kind, width, height, largest = map(int, header.groups())
    shape = (height, width, 3 if kind in (3, 6) else 1)
    body, size = content[header.end() :], height * width * shape[2]
    if kind < 4:
        values = np.array(body.split()[:size], np.int64)
    else:
        depth = 2 if largest > 255 else 1
        body = body[: len(body) // depth * depth]
        values = np.frombuffer(body, f'>u{depth}')[:size]
    if len(values) < size:
        raise OSError('image file is truncated')
    if largest > 255:
        values = values >> 8
    elif kind < 4:
        values = values * 255 // largest
    return values.reshape(shape).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """Return the orientation that OpenCV applies: of EXIF, not of XMP or in WebP."""
    if image.format == 'WEBP':
        return 1
    if image.format == 'PNG':
        # The chunk may lie behind the pixels.
        image.load()
    if image.format == 'TIFF':
        return getattr(image, 'tag_v2', {}).get(_ORIENTATION, 1)
    # Image.getexif() would add the orientation of XMP.
    exif = Image.Exif()
    exif.load(image.info.get('exif', b''))
    return exif.get(_ORIENTATION, 1)


def _from_pillow(image: Image.Image, name: str) -> np.ndarray:
    try:
        # The function would copy an upright one as well.
        if _orientation(image) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I'):
            # 16 bits, of which Pillow would not take the upper eight.
            values = np.asarray(image).astype(np.int64) >> 8
            return _from_array(values.clip(0, 255).astype(np.uint8), None)
        if image.mode == 'F':
            raise ValueError('its pixels are floating-point numbers')
        return np.asarray(_without_alpha(image).convert('RGB'))
    # Decoders raise any error at damaged files.
    except Exception as error:
        raise ImageError(f'{name} cannot be read: {first_line(error)}.') from error


def _without_alpha(image: Image.Image) -> Image.Image:
    """Multiply the colors of a TIFF by its alpha channel, as OpenCV's libtiff does."""
    if image.mode != 'RGBA' or getattr(image, 'tag_v2', {}).get(_EXTRA_SAMPLES) != (2,):
        return image
    pixels = np.asarray(image).astype(np.int64)
    pixels = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
    return Image.fromarray(pixels.astype(np.uint8))
