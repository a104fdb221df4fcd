"""Makes a network's input of an image, by the steps that its file names."""

from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import numpy as np

from .errors import ImageError, ModelError
from .model_file import side
from .resize import INTERPOLATIONS, resize


class Prepared(NamedTuple):
    """An image as a network takes it, and where its pixels come from.

    A point x of the original image is at ``x * scale - offset``.

    Attributes:
        pixels (np.ndarray): uint8, (H, W, 3).
        scale (tuple[float]): Horizontal and vertical.
        offset (tuple[float]): Horizontal and vertical.
    """

    pixels: np.ndarray
    scale: Tuple[float, float] = (1.0, 1.0)
    offset: Tuple[float, float] = (0.0, 0.0)


Step = Callable[[Prepared], Prepared]


def parse_steps(steps: List[Dict[str, Any]]) -> List[Step]:
    """Make functions of a file's steps.

    Args:
        steps (list[dict]): As in the file's metadata.

    Returns:
        list[Callable]: Each takes and returns what was made so far.

    Raises:
        ModelError: If a step is unknown.
    """
    parsed: List[Step] = []
    for step in steps:
        try:
            parse = {'resize': _parse_resize, 'crop': _parse_crop, 'pad': _parse_pad}
            parsed.append(parse[step['op']](step))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f'The preprocessing step {step!s:.200} is unknown here; update '
                'mmcdnv2-runtime.'
            ) from error
    return parsed


def prepare(image: np.ndarray, steps: List[Step]) -> Prepared:
    """Apply all steps.

    Args:
        image (np.ndarray): uint8, (H, W, 3), channels in the network's order.
        steps (list[Callable]): What to do.

    Returns:
        Prepared: What the network takes.

    Raises:
        ImageError: If nothing would be left of it, or it is too large for a
            step.
    """
    prepared = Prepared(image)
    for step in steps:
        prepared = step(prepared)
    return prepared


def _parse_resize(step: Dict[str, Any]) -> Step:
    new_size: Callable[[int, int], Tuple[int, int]]
    if step['mode'] == 'stretch':
        new_size = partial(_stretched, target=_size(step))
    elif step['mode'] == 'fit':
        new_size = partial(_fitted, long=_long(step), short=side(step['short']))
    elif step['mode'] == 'short_side':
        new_size = partial(_of_short_side, side=side(step['size']))
    else:
        raise ValueError(step['mode'])
    if step['interpolation'] not in INTERPOLATIONS:
        raise ValueError(step['interpolation'])
    return partial(
        _resize,
        new_size=new_size,
        interpolation=step['interpolation'],
        antialias=bool(step['antialias']),
    )


def _parse_crop(step: Dict[str, Any]) -> Step:
    return partial(_crop, size=_size(step))


def _parse_pad(step: Dict[str, Any]) -> Step:
    value = np.array(step['value'], np.uint8)
    return partial(_pad, size=_size(step), value=np.broadcast_to(value, 3))


def _size(step: Dict[str, Any]) -> Tuple[int, int]:
    height, width = step['size']
    return side(height), side(width)


def _long(step: Dict[str, Any]) -> int:
    # How long the longer side may be, is often not limited.
    return max(int(step['long']), 1)


def _stretched(height: int, width: int, target: Tuple[int, int]) -> Tuple[int, int]:
    return target


def _fitted(height: int, width: int, long: int, short: int) -> Tuple[int, int]:
    """Round as mmcv does."""
    factor = min(long / max(height, width), short / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def _of_short_side(height: int, width: int, side: int) -> Tuple[int, int]:
    """Round as mmpretrain does."""
    if width < height:
        return int(side * height / width), side
    return side, int(side * width / height)


def _resize(
    prepared: Prepared,
    new_size: Callable[[int, int], Tuple[int, int]],
    interpolation: str,
    antialias: bool,
) -> Prepared:
    height, width = prepared.pixels.shape[:2]
    size = new_size(height, width)
    if min(size) < 1:
        raise ImageError(
            f'An image of {width}x{height} is too narrow for this model: of its '
            'shorter side nothing is left.'
        )
    pixels = resize(prepared.pixels, size, interpolation, antialias)
    factors = (size[1] / width, size[0] / height)
    scale, offset = (
        (value[0] * factors[0], value[1] * factors[1])
        for value in (prepared.scale, prepared.offset)
    )
    return Prepared(pixels, scale, offset)


def _crop(prepared: Prepared, size: Tuple[int, int]) -> Prepared:
    height, width = prepared.pixels.shape[:2]
    # What is smaller already stays; round() takes halves to even numbers.
    top = max(0, round((height - size[0]) / 2))
    left = max(0, round((width - size[1]) / 2))
    pixels = prepared.pixels[top:, left:][: size[0], : size[1]]
    offset = (prepared.offset[0] + left, prepared.offset[1] + top)
    return prepared._replace(pixels=pixels, offset=offset)


def _pad(prepared: Prepared, size: Tuple[int, int], value: np.ndarray) -> Prepared:
    height, width = prepared.pixels.shape[:2]
    if height > size[0] or width > size[1]:
        raise ImageError(
            f'The image, {width}x{height} after other steps, does not fit into the '
            f'{size[1]}x{size[0]} that this model takes.'
        )
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = value
    pixels[:height, :width] = prepared.pixels
    return prepared._replace(pixels=pixels)
