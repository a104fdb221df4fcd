"""What classifiers and detectors find."""

from dataclasses import dataclass, replace
from typing import Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np


class ClassScore(NamedTuple):
    """A class and its score.

    Attributes:
        label (int): Index of the class.
        name (str): Its name; the index if the file has no names.
        score (float): Its probability.
    """

    label: int
    name: str
    score: float


@dataclass(frozen=True)
class Classification:
    """The scores of all classes for one image.

    Attributes:
        scores (np.ndarray): float32, (classes,).
        names (list[str]): The classes' names.
    """

    scores: np.ndarray
    names: List[str]

    def top(self, count: int = 5) -> List[ClassScore]:
        """Return the best classes, the best first.

        Args:
            count (int): How many at most. Defaults to 5.

        Returns:
            list[ClassScore]: The classes.
        """
        order = np.argsort(-self.scores, kind='stable')[:count]
        return [
            ClassScore(int(label), self.names[label], float(self.scores[label]))
            for label in order
        ]


class Detection(NamedTuple):
    """One box.

    Attributes:
        box (tuple[float]): Left, top, right and bottom in pixels of the image.
        score (float): Its probability.
        label (int): Index of its class.
        name (str): Its class's name; the index if the file has no names.
    """

    box: Tuple[float, ...]
    score: float
    label: int
    name: str


@dataclass(frozen=True)
class Detections:
    """The boxes in one image, the best first.

    Attributes:
        boxes (np.ndarray): float32, (n, 4): left, top, right and bottom in
            pixels of the original image, upright. A box may pass the image's
            border where the model's preprocessing pads.
        scores (np.ndarray): float32, (n,).
        labels (np.ndarray): int64, (n,).
        names (list[str]): The boxes' class names.
        image_size (tuple[int]): Height and width of the image.
        mask_probabilities (np.ndarray, optional): float32, (n, h, w), if the
            model finds masks.
        mask_threshold (float): From which probability on a pixel belongs to a
            mask. Defaults to 0.5.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: List[str]
    image_size: Tuple[int, int]
    mask_probabilities: Optional[np.ndarray] = None
    mask_threshold: float = 0.5

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        """Yield one box after the other."""
        for box, score, label, name in zip(
            self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.names
        ):
            yield Detection(tuple(box), score, label, name)

    def select(self, kept: Union[slice, np.ndarray]) -> 'Detections':
        """Return some of the boxes.

        Args:
            kept (slice | np.ndarray): Which, as for any array.

        Returns:
            Detections: Those.
        """
        masks = self.mask_probabilities
        return replace(
            self,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            labels=self.labels[kept],
            names=np.array(self.names, object)[kept].tolist(),
            mask_probabilities=None if masks is None else masks[kept],
        )

    def mask(self, index: int) -> np.ndarray:
        """Return a box's mask. It is made here: all of them may be too large.

        Args:
            index (int): Which box.

        Returns:
            np.ndarray: bool, of the image's height and width.

        Raises:
            ValueError: If the model finds no masks.
        """
        if self.mask_probabilities is None:
            raise ValueError('This model finds boxes without masks.')
        probabilities = self.mask_probabilities[index]
        left, top, right, bottom = self.boxes[index].tolist()
        rows, vertical = _mask_axis(
            top, bottom, probabilities.shape[0], self.image_size[0]
        )
        columns, horizontal = _mask_axis(
            left, right, probabilities.shape[1], self.image_size[1]
        )
        mask = np.zeros(self.image_size, bool)
        found = vertical @ probabilities @ horizontal.T
        mask[rows, columns] = found >= self.mask_threshold
        return mask


def _mask_axis(
    start: float, end: float, cells: int, side: int
) -> Tuple[slice, np.ndarray]:
    """Interpolate along one side of a box.

    Args:
        start (float): Where the box begins in the image.
        end (float): Where it ends.
        cells (int): The mask's cells between them.
        side (int): The image's pixels.

    Returns:
        tuple[slice, np.ndarray]: The pixels that it may touch, and the weight
        of each cell for each of them, (pixels, cells).
    """
    first = min(max(int(np.floor(start)) - 1, 0), side)
    last = max(min(int(np.ceil(end)) + 1, side), first)
    if end <= start:
        last = first
    centres = np.arange(first, last, dtype=np.float32) + 0.5
    position = (centres - start) / max(end - start, 1e-12) * cells - 0.5
    weights = 1 - np.abs(position[:, None] - np.arange(cells))
    return slice(first, last), np.maximum(weights, 0, dtype=np.float32)
