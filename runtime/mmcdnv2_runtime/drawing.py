"""Draws boxes and masks into an image."""

import colorsys
from typing import Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .results import Detections

# Of the colour circle; neighbouring labels get colours that differ.
_STEP = 0.381966


def draw(image: np.ndarray, detections: Detections) -> Image.Image:
    """Draw what was found.

    Args:
        image (np.ndarray): uint8, (H, W, 3), in the order RGB; stays as it is.
        detections (Detections): What was found in it.

    Returns:
        Image.Image: The picture.
    """
    pixels = image.copy()
    colours = [_colour(int(label)) for label in detections.labels]
    if detections.mask_probabilities is not None:
        # The best last, on top of the others.
        for index in reversed(range(len(detections))):
            mask = detections.mask(index)
            pixels[mask] = pixels[mask] // 2 + np.array(colours[index], np.uint8) // 2
    picture = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(picture)
    side = max(image.shape)
    width = max(1, round(side / 400))
    try:
        font = ImageFont.load_default(max(10, side / 50))
    except TypeError:
        # Before Pillow 10.1 it has one size.
        font = ImageFont.load_default()
    for found, colour in reversed(list(zip(detections, colours))):
        # A box may end in the padding.
        limits = (image.shape[1], image.shape[0]) * 2
        left, top, right, bottom = np.clip(found.box, 0, limits).tolist()
        canvas.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)),
            outline=colour,
            width=width,
        )
        # The font that Pillow brings has few other letters.
        text = f'{found.name} {found.score:.2f}'
        text = text.encode('ascii', 'replace').decode()
        place = canvas.textbbox((left + width, top + width), text, font)
        canvas.rectangle(place, fill=colour)
        canvas.text((left + width, top + width), text, (0, 0, 0), font)
    return picture


def _colour(label: int) -> Tuple[int, ...]:
    return tuple(
        int(255 * part) for part in colorsys.hsv_to_rgb(label * _STEP % 1, 0.75, 1)
    )
