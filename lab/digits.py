"""Generate small datasets of real handwritten digits on photographs.

scikit-learn ships 1,797 scanned digits of 8x8 pixels and two photographs. Pasted
with random sizes, positions and colours, they give a detection dataset in COCO
format and a classification dataset in folders, without a download.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple, Union

import cv2
import numpy as np
from rich.progress import track

from mmcdnv2.errors import InputError
from mmcdnv2.files import make_folder_when_done

CLASSES = tuple(str(digit) for digit in range(10))
# Width and height of the detection images in pixels.
DETECTION_SIZE = 192
# Largest number of digits in a detection image.
MAX_DIGITS = 6
# Smallest and largest size of a digit's 8x8 raster in a detection image, in pixels.
DIGIT_SIZE = (24, 71)
# Smallest opacity of ink in a digit's box.
_INK = 0.3


@dataclass(frozen=True)
class ClassificationStyle:
    """Style of classification images; the defaults are the demo's.

    Args:
        size (int): Width and height of the image in pixels. Defaults to 48.
        digit_size (tuple[int]): Smallest and largest size of the digit's 8x8
            raster in pixels. Defaults to (32, 48).
        dimming (float): The photograph is multiplied by a uniform random number
            to this power; 0 for no dimming. Defaults to 2.
        rotation (float): Largest rotation of a digit in degrees, in both
            directions. Defaults to 0.
        shear (float): Largest shear of a digit in degrees, in both directions.
            Defaults to 0.
        neighbours (int): Largest number of other digits, of the same split,
            that are partly visible at the border. Defaults to 0.
        opacity (float): Smallest opacity of a digit; the largest is 1. Defaults
            to 1.
        noise (float): Standard deviation of the pixel noise in grey levels.
            Defaults to 0.

    Raises:
        InputError: If the digits do not fit into the image.
    """

    size: int = 48
    digit_size: Tuple[int, int] = (32, 48)
    dimming: float = 2.0
    rotation: float = 0.0
    shear: float = 0.0
    neighbours: int = 0
    opacity: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        smallest, largest = self.digit_size
        if not 8 <= smallest <= largest <= self.size:
            raise InputError(
                'digit_size must be a smallest and a largest size from 8 to the '
                f"image's {self.size} pixels, got {smallest} and {largest}."
            )


DEMO = ClassificationStyle()
# Hard enough that small networks differ by more than their seeds do. Dark backgrounds
# and a third of the images without neighbours help at the start: ShuffleNetV2 learned
# nothing in 750 iterations when every image was cluttered.
STUDY = ClassificationStyle(
    size=32,
    digit_size=(16, 28),
    dimming=2.0,
    rotation=20.0,
    shear=15.0,
    neighbours=2,
    opacity=0.4,
    noise=8.0,
)


class DigitPainter:
    """Paint the digits of one split on crops of the photographs.

    Args:
        split (str): 'train' or 'val', which have disjoint digits.
        seed (int): Random seed. Defaults to 0.
    """

    def __init__(self, split: str, seed: int = 0) -> None:
        from sklearn.datasets import load_digits, load_sample_images

        bunch = load_digits()
        order = np.random.RandomState(seed).permutation(len(bunch.images))
        count = len(order) * 4 // 5
        chosen = {'train': order[:count], 'val': order[count:]}[split]
        self.digits = (bunch.images[chosen] / 16).astype(np.float32)
        self.labels = bunch.target[chosen]
        self.photos = load_sample_images().images
        self.rng = np.random.RandomState([seed, split == 'val'])

    def background(self, size: int) -> np.ndarray:
        """Return a random, scaled crop of a photograph.

        Args:
            size (int): Width and height of the result in pixels.

        Returns:
            np.ndarray: RGB, uint8, shape (size, size, 3).
        """
        photo = self.photos[self.rng.randint(len(self.photos))]
        side = self.rng.randint(min(size, 96), min(photo.shape[:2]) + 1)
        top = self.rng.randint(photo.shape[0] - side + 1)
        left = self.rng.randint(photo.shape[1] - side + 1)
        crop = photo[top : top + side, left : left + side]
        if self.rng.rand() < 0.5:
            crop = crop[:, ::-1]
        return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)

    def ink(self, index: int, size: int) -> np.ndarray:
        """Return an enlarged digit with a margin for the edges of its strokes.

        Args:
            index (int): Index of the digit in the split.
            size (int): Width and height of the result in pixels; the scan is in
                the inner four fifths.

        Returns:
            np.ndarray: Opacity in [0, 1], shape (size, size).
        """
        scan = np.pad(self.digits[index], 1)
        ink = cv2.resize(scan, (size, size), interpolation=cv2.INTER_CUBIC)
        # Sharpen the strokes, which are blurred after scaling.
        return (2 * ink - 0.5).clip(0, 1)

    def paint(
        self,
        canvas: np.ndarray,
        ink: np.ndarray,
        left: int,
        top: int,
        opacity: float = 1.0,
    ) -> Optional[Tuple[int, int, int, int]]:
        """Paint a digit in a light random colour, in place.

        Args:
            canvas (np.ndarray): RGB, uint8, shape (H, W, 3).
            ink (np.ndarray): Opacities from :meth:`ink`.
            left (int): Column of the ink's left edge; may be outside.
            top (int): Row of the ink's top edge; may be outside.
            opacity (float): Factor for the ink's opacity. Defaults to 1.

        Returns:
            tuple[int] | None: The box (x, y, width, height) of the visible ink
            in pixels; None if nothing is visible.
        """
        height, width = canvas.shape[:2]
        y0, x0 = max(top, 0), max(left, 0)
        y1 = min(top + ink.shape[0], height)
        x1 = min(left + ink.shape[1], width)
        if y0 >= y1 or x0 >= x1:
            return None
        rim = (2 * cv2.GaussianBlur(ink, (0, 0), len(ink) / 24)).clip(0, 0.9)
        visible = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        ink, rim = ink[visible], rim[visible] * opacity
        rows, columns = np.where(ink > _INK)
        if not len(rows):
            return None
        patch = canvas[y0:y1, x0:x1]
        # A light colour with a dark rim is visible on any background.
        colour = self.rng.randint(170, 256, 3)
        alpha = ink[..., None] * opacity
        patch[:] = patch * (1 - rim[..., None]) * (1 - alpha) + colour * alpha
        x, y = columns.min(), rows.min()
        return (
            int(x0 + x),
            int(y0 + y),
            int(columns.max() - x + 1),
            int(rows.max() - y + 1),
        )

    def classification_image(
        self, style: ClassificationStyle = DEMO
    ) -> Tuple[np.ndarray, int]:
        """Paint one digit on a dimmed photograph.

        Args:
            style (ClassificationStyle): Defaults to the demo's, where the digit
                fills most of the image.

        Returns:
            tuple[np.ndarray, int]: RGB image, uint8, and the label.
        """
        # A new network learns to find digits in clutter only if some images have
        # hardly any.
        size = style.size
        dimmed = self.background(size) * self.rng.rand() ** style.dimming
        canvas = dimmed.astype(np.uint8)
        # The demo's images must not change: draw random numbers only where needed.
        if style.neighbours:
            for _ in range(self.rng.randint(style.neighbours + 1)):
                self._paint_neighbour(canvas, style)
        index = self.rng.randint(len(self.digits))
        side = self.rng.randint(style.digit_size[0], style.digit_size[1] + 1)
        left, top = self.rng.randint(size - side + 1, size=2)
        self._paint_styled(canvas, index, side, left, top, style)
        if style.noise:
            noisy = canvas + self.rng.normal(0, style.noise, canvas.shape)
            canvas = noisy.round().clip(0, 255).astype(np.uint8)
        return canvas, int(self.labels[index])

    def _paint_neighbour(self, canvas: np.ndarray, style: ClassificationStyle) -> None:
        """Paint a digit whose centre is on the border, so that half is visible."""
        index = self.rng.randint(len(self.digits))
        side = self.rng.randint(style.digit_size[0], style.digit_size[1] + 1)
        along, across = self.rng.randint(style.size), self.rng.choice([0, style.size])
        centre = (along, across) if self.rng.rand() < 0.5 else (across, along)
        left, top = (c - side // 2 for c in centre)
        self._paint_styled(canvas, index, side, left, top, style)

    def _paint_styled(
        self,
        canvas: np.ndarray,
        index: int,
        side: int,
        left: int,
        top: int,
        style: ClassificationStyle,
    ) -> None:
        """Paint a digit whose 8x8 raster, before rotation, has this position."""
        margin = side // 8
        ink = self.ink(index, side + 2 * margin)
        if style.rotation or style.shear:
            ink = self._warped(ink, style)
        opacity = 1.0
        if style.opacity < 1:
            opacity = self.rng.uniform(style.opacity, 1)
        self.paint(canvas, ink, left - margin, top - margin, opacity)

    def _warped(self, ink: np.ndarray, style: ClassificationStyle) -> np.ndarray:
        """Rotate and shear about the centre."""
        limits = np.array([style.rotation, style.shear])
        turn, lean = np.deg2rad(self.rng.uniform(-limits, limits))
        rotation = np.array(
            [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        )
        matrix = rotation @ [[1, np.tan(lean)], [0, 1]]
        centre = np.full(2, (len(ink) - 1) / 2)
        shift = centre - matrix @ centre
        return cv2.warpAffine(ink, np.column_stack([matrix, shift]), ink.shape)

    def detection_image(self) -> Tuple[np.ndarray, List[Dict]]:
        """Paint up to ``MAX_DIGITS`` digits that hardly overlap.

        One image in ``MAX_DIGITS + 1`` stays empty.

        Returns:
            tuple[np.ndarray, list[dict]]: RGB image, uint8, and annotations
            with ``bbox`` (x, y, width, height) and ``label``.
        """
        size = DETECTION_SIZE
        canvas = self.background(size)
        taken = np.zeros((size, size), bool)
        objects: List[Dict] = []
        for _ in range(self.rng.randint(MAX_DIGITS + 1)):
            index = self.rng.randint(len(self.digits))
            side = self.rng.randint(DIGIT_SIZE[0], DIGIT_SIZE[1] + 1)
            margin = side // 8
            # A quarter of a digit may be outside the image.
            left, top = self.rng.randint(-side // 4, size - side * 3 // 4, 2)
            region = taken[max(top, 0) : top + side, max(left, 0) : left + side]
            if region.mean() > 0.1:
                continue
            ink = self.ink(index, side + 2 * margin)
            box = self.paint(canvas, ink, left - margin, top - margin)
            if box is not None:
                region[:] = True
                objects.append(dict(bbox=box, label=int(self.labels[index])))
        return canvas, objects


def make_digits(
    out_dir: Union[str, Path],
    num_train: int = 1600,
    num_val: int = 200,
    num_classification: int = 6000,
    seed: int = 0,
) -> None:
    """Write both datasets; the same arguments give the same files.

    Layout::

        out_dir/annotations/{train,val}.json   COCO format
        out_dir/{train,val}/000000.png         detection images
        out_dir/classification/{train,val}/D/000000.png

    Args:
        out_dir (str | Path): Folder to create, atomically.
        num_train (int): Number of detection images for training.
        num_val (int): Number of detection images for testing.
        num_classification (int): Number of classification images for training;
            a fifth of it for testing.
        seed (int): Random seed.

    Raises:
        InputError: If ``out_dir`` exists.
    """
    with make_folder_when_done(out_dir) as partial:
        for split, count in (('train', num_train), ('val', num_val)):
            painter = DigitPainter(split, seed)
            _write_coco(partial, split, count, painter)
            share = num_classification if split == 'train' else num_classification // 5
            _write_folders(partial / 'classification', split, share, painter, DEMO)


def make_classification(
    out_dir: Union[str, Path],
    num_train: int = 8000,
    num_val: int = 4000,
    style: ClassificationStyle = STUDY,
    seed: int = 0,
) -> None:
    """Write a classification dataset; the same arguments give the same files.

    Layout::

        out_dir/{train,val}/D/000000.png

    Args:
        out_dir (str | Path): Folder to create, atomically.
        num_train (int): Number of images for training. Defaults to 8000.
        num_val (int): Number of images for testing, with other digits. Defaults
            to 4000.
        style (ClassificationStyle): Defaults to the study's.
        seed (int): Random seed. Defaults to 0.

    Raises:
        InputError: If ``out_dir`` exists.
    """
    with make_folder_when_done(out_dir) as partial:
        for split, count in (('train', num_train), ('val', num_val)):
            _write_folders(partial, split, count, DigitPainter(split, seed), style)


def _write_coco(root: Path, split: str, count: int, painter: DigitPainter) -> None:
    (root / split).mkdir()
    (root / 'annotations').mkdir(exist_ok=True)
    images: List[Dict] = []
    annotations: List[Dict] = []
    title = f'{split}: detection images'
    for image_id in track(range(count), title):
        canvas, objects = painter.detection_image()
        name = f'{image_id:06d}.png'
        _write_image(canvas, root / split / name)
        height, width = canvas.shape[:2]
        images.append(dict(id=image_id, file_name=name, width=width, height=height))
        for item in objects:
            _, _, width, height = item['bbox']
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=item['label'],
                    bbox=list(item['bbox']),
                    area=width * height,
                    iscrowd=0,
                )
            )
    content = dict(
        images=images,
        annotations=annotations,
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES)],
    )
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))


def _write_folders(
    root: Path,
    split: str,
    count: int,
    painter: DigitPainter,
    style: ClassificationStyle,
) -> None:
    folder = root / split
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    title = f'{split}: classification images'
    for i in track(range(count), title):
        canvas, label = painter.classification_image(style)
        _write_image(canvas, folder / CLASSES[label] / f'{i:06d}.png')


def _write_image(pixels: np.ndarray, path: Path) -> None:
    # cv2.imwrite ignores a full disk, and mmcv.imwrite recreates a folder that was
    # removed with the images before.
    path.write_bytes(cv2.imencode('.png', pixels[..., ::-1])[1].tobytes())
