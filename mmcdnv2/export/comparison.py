"""Whether an exported file gives what the network gives."""

from typing import List, NamedTuple, Tuple

import numpy as np
from torch import Tensor
from torchvision.ops import box_iou

# Largest difference of an output that passes, relative to the largest value.
TOLERANCE = 1e-4
# Largest difference of a box's score, and of its corners relative to the image.
SCORE_TOLERANCE = 1e-3
BOX_TOLERANCE = 1e-3
# Differences of overlaps by which suppression may come out otherwise.
IOU_TOLERANCE = 1e-3


class Boxes(NamedTuple):
    """Boxes of one image.

    Attributes:
        boxes (Tensor): Shape (B, 4).
        scores (Tensor): Shape (B,).
        labels (Tensor): Shape (B,).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest expected value.

    Args:
        actual (np.ndarray): What was computed.
        expected (np.ndarray): What should have been.

    Returns:
        float: Infinity where shapes differ or a value is no number.
    """
    if actual.shape != expected.shape:
        return float('inf')
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return float('inf')
    if not expected.size:
        return 0.0
    scale = np.abs(expected).max()
    return float(
        np.abs(actual - expected).max() / max(scale, np.finfo(np.float32).tiny)
    )


def unmatched(
    actual: Boxes,
    expected: Boxes,
    size: Tuple[int, int],
    iou_threshold: float,
    score_threshold: float,
    limit: int,
    min_bbox_size: float = -1,
) -> List[str]:
    """Describe boxes of either side that the other lacks.

    A box may be missing where a rounding decides: where its score is next to the
    threshold or to the lowest one of a full list, where one of its sides is next to the
    smallest size, or where it overlaps another box of its label by just about the
    threshold, or one that is itself missing.

    Args:
        actual (Boxes): What the file gives.
        expected (Boxes): What the network gives.
        size (tuple[int]): Height and width of the image.
        iou_threshold (float): Overlap from which boxes are suppressed.
        score_threshold (float): From which score on boxes are returned.
        limit (int): Number of boxes that are returned at most.
        min_bbox_size (float): Size that both sides of a box must be above. Defaults
            to -1: any box may be returned.

    Returns:
        list[str]: A description of each, none if all is well.
    """
    excused: List[Tuple[Boxes, int, str]] = []
    lacking: List[Tuple[Boxes, int, str]] = []
    for ours, other, whose in (
        (actual, expected, 'the file'),
        (expected, actual, 'PyTorch'),
    ):
        lowest = score_threshold
        if len(other.scores) >= limit:
            lowest = max(lowest, float(other.scores.min()))
        for i in _without_partner(ours, other, max(size)):
            label = ours.labels[i]
            overlaps = [
                _overlaps(ours.boxes[i], each.boxes[each.labels == label])
                for each in (ours, other)
            ]
            left, top, right, bottom = ours.boxes[i].tolist()
            side = min(right - left, bottom - top)
            is_borderline = (
                ours.scores[i] < lowest + SCORE_TOLERANCE
                or side < min_bbox_size + BOX_TOLERANCE * max(size)
                or any(
                    (np.abs(overlap - iou_threshold) < IOU_TOLERANCE).any()
                    for overlap in overlaps
                )
            )
            (excused if is_borderline else lacking).append((ours, i, whose))
    # Where one box is missing, what it would have suppressed is not.
    more = lacking
    while more:
        more = [
            (ours, i, whose)
            for ours, i, whose in lacking
            if any(
                each.labels[j] == ours.labels[i]
                and _overlaps(ours.boxes[i], each.boxes[j][None])[0]
                > iou_threshold - IOU_TOLERANCE
                for each, j, _ in excused
            )
        ]
        excused += more
        taken = {(whose, i) for _, i, whose in more}
        lacking = [each for each in lacking if (each[2], each[1]) not in taken]
    return [_describe(*each) for each in lacking]


def _overlaps(box: Tensor, boxes: Tensor) -> np.ndarray:
    return box_iou(box[None], boxes)[0].numpy()


def _describe(boxes: Boxes, i: int, whose: str) -> str:
    corners = ', '.join(f'{value:.1f}' for value in boxes.boxes[i].tolist())
    return (
        f'only {whose} has a box of label {int(boxes.labels[i])} with a score of '
        f'{float(boxes.scores[i]):.4f} at ({corners})'
    )


def _without_partner(ours: Boxes, other: Boxes, side: int) -> List[int]:
    """Indices of boxes to which the other side has no equal one."""
    lacking = []
    free = np.ones(len(other.scores), bool)
    for i in range(len(ours.scores)):
        fits = (
            (other.labels == ours.labels[i])
            & ((other.scores - ours.scores[i]).abs() <= SCORE_TOLERANCE)
            & ((other.boxes - ours.boxes[i]).abs().amax(1) <= BOX_TOLERANCE * side)
        ).numpy() & free
        if not fits.any():
            lacking.append(i)
        else:
            free[fits.argmax()] = False
    return lacking
