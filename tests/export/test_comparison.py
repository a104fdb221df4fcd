"""When boxes are the same, and when outputs are."""

import numpy as np
import pytest
import torch

from mmcdnv2.export.comparison import Boxes, relative_difference, unmatched

SIZE, IOU, THRESHOLD, LIMIT = (100, 100), 0.5, 0.05, 10


def boxes(*rows):
    rows = torch.tensor(rows).reshape(-1, 6)
    return Boxes(rows[:, :4], rows[:, 4], rows[:, 5].long())


A = (10.0, 10, 30, 30, 0.9, 1)
B = (50.0, 50, 80, 80, 0.7, 2)


def differences(ours, theirs, limit=LIMIT, **options):
    ours, theirs = boxes(*ours), boxes(*theirs)
    return unmatched(ours, theirs, SIZE, IOU, THRESHOLD, limit, **options)


def test_order_and_rounding_do_not_matter():
    moved = (10.05, 10, 29.95, 30, 0.9004, 1)
    assert not differences([A, B], [B, moved])
    assert not differences([], [])


@pytest.mark.parametrize(
    'other',
    [
        (10.0, 10, 30, 30, 0.902, 1),
        (10.2, 10, 30, 30, 0.9, 1),
        (10.0, 10, 30, 30, 0.9, 3),
        (float('nan'), 10, 30, 30, 0.9, 1),
    ],
)
def test_another_score_corner_or_label_does(other):
    found = differences([other, B], [A, B])
    assert any('only PyTorch has a box of label 1' in each for each in found)


def test_a_missing_box_is_named():
    (found,) = differences([B], [A, B])
    assert found == (
        'only PyTorch has a box of label 1 with a score of 0.9000 at '
        '(10.0, 10.0, 30.0, 30.0)'
    )


def test_each_box_has_a_partner_of_its_own():
    assert len(differences([A], [A, A])) == 1


def test_roundings_may_decide_at_the_thresholds():
    low = (1.0, 1, 5, 5, 0.0505, 1)
    assert not differences([A, low], [A])
    # The last place of a full list may go to either of two.
    other = (50.0, 50, 80, 80, 0.7005, 4)
    assert not differences([A, B], [A, other], limit=2)
    assert differences([A, B], [A, other], limit=3)
    # It overlaps the first by half of both.
    half = (10.0, 10, 30, 20, 0.8, 1)
    assert not differences([A, half], [A])
    assert differences([A, (10.0, 10, 30, 19, 0.8, 1)], [A])


def test_roundings_may_decide_at_the_smallest_size():
    """An untrained RTMDet's boxes have sides of 1e-12, or none."""
    thin = (5.0, 5, 5 + 1e-6, 30, 0.6, 1)
    twenty = (50.0, 50, 70.05, 80, 0.7, 2)
    for box, least in ((thin, 0), (twenty, 20)):
        assert differences([A, box], [A]) and differences([A], [A, box])
        assert not differences([A, box], [A], min_bbox_size=least)
        assert not differences([A], [A, box], min_bbox_size=least)
    assert differences([A, B], [A], min_bbox_size=20)


def test_what_a_missing_box_would_have_suppressed_is_excused():
    # PyTorch keeps the second, which overlaps the first by half, and so suppresses
    # the third, which overlaps the second by more.
    first = (10.0, 10, 30, 30, 0.9, 1)
    second = (10.0, 10, 30, 20, 0.8, 1)
    third = (10.0, 10, 30, 18, 0.7, 1)
    assert not differences([first, third], [first, second])
    assert differences([first, (60.0, 60, 80, 80, 0.7, 1)], [first, second])


def test_what_that_box_would_have_suppressed_in_turn_is_excused():
    # The fourth is suppressed by the third alone, which the second suppresses.
    first = (10.0, 10, 30, 30, 0.9, 1)
    second = (10.0, 10, 30, 20, 0.8, 1)
    third = (10.0, 13, 30, 22, 0.7, 1)
    fourth = (10.0, 16, 30, 24.5, 0.6, 1)
    assert not differences([first, third], [first, second, fourth])
    assert differences([first, third], [first, fourth])


def test_differences_are_relative_to_the_largest_value():
    expected = np.array([0.0, -200.0])
    assert relative_difference(np.array([0.1, -200.0]), expected) == 0.1 / 200
    assert relative_difference(np.zeros((2, 1)), expected) == float('inf')
    assert relative_difference(np.array([np.nan, -200]), expected) == float('inf')
    assert relative_difference(expected, np.array([np.nan, -200])) == float('inf')
    both = np.array([np.inf, 1.0])
    assert relative_difference(both, both) == float('inf')
    assert relative_difference(np.zeros(3), np.zeros(3)) == 0
