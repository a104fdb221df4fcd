"""SEGlobalAveragePooling."""

import pytest
import torch

from mmcdnv2.errors import InputError
from mmcdnv2.necks import SEGlobalAveragePooling


def test_formula():
    neck = SEGlobalAveragePooling(32, ratio=4)
    x = torch.randn(2, 32, 5, 3)
    pooled = x.mean((2, 3))
    down, up = (conv.conv.weight[:, :, 0, 0] for conv in (neck.se.conv1, neck.se.conv2))
    expected = pooled * torch.sigmoid(torch.relu(pooled @ down.t()) @ up.t())
    torch.testing.assert_close(neck((None, x))[0], expected)
    assert down.shape == (8, 32)


def test_formula_with_norm():
    neck = SEGlobalAveragePooling(32, ratio=4, norm_cfg=dict(type='BN')).eval()
    torch.nn.init.uniform_(neck.se.conv1.bn.running_mean, -1, 1)
    x = torch.randn(2, 32, 5, 3)
    pooled = x.mean((2, 3))
    down, up = (conv.conv.weight[:, :, 0, 0] for conv in (neck.se.conv1, neck.se.conv2))
    normed = neck.se.conv1.bn((pooled @ down.t())[:, :, None, None])[:, :, 0, 0]
    expected = pooled * (torch.relu(normed) @ up.t() / 6 + 0.5).clamp(0, 1)
    torch.testing.assert_close(neck((x,))[0], expected)


@pytest.mark.parametrize('ratio', [0, 33])
def test_rejects_bad_ratio(ratio):
    with pytest.raises(InputError, match='ratio must be in'):
        SEGlobalAveragePooling(32, ratio)
