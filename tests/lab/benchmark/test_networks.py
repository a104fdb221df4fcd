"""The networks of the benchmark."""

import pytest
import torch
from conftest import ROOT

from lab.benchmark import NETWORKS
from lab.benchmark.networks import build_network
from lab.benchmark.runtimes import as_tensors
from mmcdnv2.complexity import count_params


@pytest.mark.parametrize(
    ('name', 'strides', 'params'),
    [
        ('cdnv2_a', (4, 8, 16, 32), None),
        # Without the last 1x1 convolution and its norm.
        ('shufflenetv2_0.5x', (8, 16, 32), 1366792 - 192 * 1024 - 2048 - 1025000),
        ('mobilenetv2', (4, 8, 16, 32), 3504872 - 320 * 1280 - 2560 - 1281000),
        ('mobilenetv3_large', (4, 8, 16, 32), None),
        ('mobilenetv4_conv_small', (4, 8, 16, 32), None),
        ('ghostnet_1.0x', (4, 8, 16, 32), None),
        ('lcnet_100', (4, 8, 16, 32), None),
        # Without the classifier and the convolution before it.
        ('hgnetv2_b0', (4, 8, 16, 32), 5996550 - 2049000 - 2097154),
        # Fused, without the classifier.
        ('repvit_m0_9', (4, 8, 16, 32), 5067056 - 385000),
    ],
)
@torch.no_grad()
def test_backbones_end_with_the_last_stage_returned(name, strides, params):
    if NETWORKS[name].config.startswith('timm'):
        pytest.importorskip('timm')
    backbone = build_network(NETWORKS[name], 'backbone', ROOT)
    outs = as_tensors(backbone(torch.rand(1, 3, 64, 64)))
    assert [64 // out.size(-1) for out in outs] == list(strides)
    if params:
        assert count_params(backbone) == params
