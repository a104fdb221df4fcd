"""Reads images as mmcv does: upright, in three channels of 8 bits."""

import os
from typing import Optional, Union

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError, first_line

_ORIENTATION = 0x0112

ImageLike = Union[str, 'os.PathLike[str]', Image.Image, np.ndarray]


def load_image(image: ImageLike, order: Optional[str] = None) -> np.ndarray:
    """Make an array of an image.

    Args:
        image (str | Path | Image.Image | np.ndarray): A file, Pillow's image,
            or an array of uint8, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
            Files and Pillow's images are turned as their EXIF data tell.
            Transparency is ignored.
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
        # The function would copy an upright one as well.
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I'):
            # 16 bits, of which Pillow would not take the upper eight.
            values = np.asarray(image).astype(np.int64) >> 8
            return _from_array(values.clip(0, 255).astype(np.uint8), None)
        if image.mode == 'F':
            raise ValueError('its pixels are floating-point numbers')
        return np.asarray(image.convert('RGB'))
    # Decoders raise whatever they come upon in damaged files.
    except Exception as error:
        raise ImageError(f'{name} cannot be read: {first_line(error)}.') from error
