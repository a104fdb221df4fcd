"""Resizing as OpenCV and Pillow do it, with NumPy and Pillow alone.

The networks were trained and tested on images that OpenCV made smaller, by its
interpolation between 2 or 4 neighbours even where dozens of pixels become one.
Pillow averages all of them, and so cannot stand in for it.
"""

from typing import Tuple

import numpy as np
from PIL import Image

INTERPOLATIONS = ('bilinear', 'bicubic')
# Rows of the result that are made at once: what they need stays in the cache.
_ROWS = 16
# OpenCV's weights of 'bilinear' are multiples of 1 / 2048.
_BITS = 11


def resize(
    image: np.ndarray, size: Tuple[int, int], interpolation: str, antialias: bool
) -> np.ndarray:
    """Resize an image.

    Args:
        image (np.ndarray): uint8, (H, W, 3).
        size (tuple[int]): The new height and width.
        interpolation (str): 'bilinear' or 'bicubic'.
        antialias (bool): Whether all pixels count where many become one, as
            with Pillow, or only the nearest, as with OpenCV.

    Returns:
        np.ndarray: uint8, (height, width, 3).
    """
    if image.shape[:2] == size:
        return image
    if antialias:
        filters = {
            'bilinear': Image.Resampling.BILINEAR,
            'bicubic': Image.Resampling.BICUBIC,
        }
        picture = Image.fromarray(image)
        return np.asarray(picture.resize(size[::-1], filters[interpolation]))
    # Pixels of a row by their channels, so that NumPy has long rows to work on.
    image = np.ascontiguousarray(image)
    flat = image.reshape(image.shape[0], -1)
    rows, row_weights = _taps(image.shape[0], size[0], interpolation)
    columns, column_weights = _taps(image.shape[1], size[1], interpolation)
    columns = (columns[:, :, None] * 3 + np.arange(3)).reshape(len(columns), -1)
    column_weights = column_weights.repeat(3, axis=1)
    resized = np.empty((size[0], size[1] * 3), np.uint8)
    for start in range(0, size[0], _ROWS):
        part = slice(start, start + _ROWS)
        # Neighbouring rows share their sources.
        sources, index = np.unique(rows[:, part], return_inverse=True)
        index = index.reshape(len(rows), -1)
        lines = _weighted_sum(flat[sources], columns, column_weights, 1)
        weights = row_weights[:, part, None]
        if interpolation == 'bilinear':
            # OpenCV's order, in which some bits are dropped on the way.
            lines >>= 4
            total = (lines[index[0]] * weights[0]) >> 16
            total += (lines[index[1]] * weights[1]) >> 16
            total = (total + 2) >> 2
        else:
            total = _weighted_sum(lines, index, weights, 0)
            total = np.rint(total).clip(0, 255)
        resized[part] = total
    return resized.reshape(*size, 3)


def _weighted_sum(
    source: np.ndarray, index: np.ndarray, weights: np.ndarray, axis: int
) -> np.ndarray:
    """Sum up what each of several indices takes, times its weights."""
    total = source.take(index[0], axis=axis) * weights[0]
    for taken, weight in zip(index[1:], weights[1:]):
        total += source.take(taken, axis=axis) * weight
    return total


def _taps(
    source: int, target: int, interpolation: str
) -> Tuple[np.ndarray, np.ndarray]:
    """Return what the pixels of a resized row are made of.

    Args:
        source (int): The row's pixels.
        target (int): Its pixels afterwards.
        interpolation (str): 'bilinear' or 'bicubic'.

    Returns:
        tuple[np.ndarray]: Indices and weights, (2 or 4, target); the weights of
        'bilinear' are integers.
    """
    # OpenCV rounds the positions to float32, too.
    position = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    offset = (position - first).astype(np.float32)
    if interpolation == 'bilinear':
        neighbours = np.arange(2)
        parts = np.stack([1 - offset, offset])
        weights = np.rint(parts * (1 << _BITS)).astype(np.int32)
    else:
        neighbours = np.arange(-1, 3)
        distance = np.abs(offset - neighbours[:, None])
        near = (1.25 * distance - 2.25) * distance * distance + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        weights = np.where(distance <= 1, near, far).astype(np.float32)
    return np.clip(first + neighbours[:, None], 0, source - 1), weights
