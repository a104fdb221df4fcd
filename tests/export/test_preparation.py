"""What is put in front of a network."""

import pytest

pytest.importorskip('onnx')

from mmcdnv2.export.preparation import Preparation  # noqa: E402


@pytest.mark.parametrize(
    ('divisor', 'size', 'padded'),
    [
        (1, (33, 5), (33, 5)),
        (32, (33, 64), (64, 64)),
        (32, (32, 1), (32, 32)),
    ],
)
def test_sizes_are_padded_up(divisor, size, padded):
    assert Preparation(None, None, False, divisor).padded(size) == padded
