"""Networks in several runtimes."""

from importlib.util import find_spec

import pytest
import torch
from conftest import ROOT

from lab.benchmark import NETWORKS, RUNTIMES
from lab.benchmark.networks import build_network
from lab.benchmark.runtimes import Job, as_tensors
from mmcdnv2.layers import CondensedSFR


@pytest.mark.parametrize('name', ['onnxruntime', 'openvino'])
@torch.no_grad()
def test_runtime_gives_the_same_output(name):
    runtime = RUNTIMES[name]
    if not all(map(find_spec, runtime.packages)):
        pytest.skip(f'{name} is not installed')
    # Several groups update the same outputs, which exporters may get wrong.
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), CondensedSFR(16, 8, groups=4, sparse_factor=2)
    ).eval()
    x = torch.randn(1, 3, 8, 8)
    call = runtime.prepare(Job(network, x, threads=1, kernels=False))
    [actual] = as_tensors(call())
    torch.testing.assert_close(actual, network(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_backbones_whose_eval_returns_nothing():
    runtime = RUNTIMES['onnxruntime']
    if not all(map(find_spec, runtime.packages)):
        pytest.skip('ONNX Runtime is not installed')
    network = build_network(NETWORKS['shufflenetv2_0.5x'], 'backbone', ROOT)
    assert network.eval() is None
    x = torch.randn(1, 3, 64, 64)
    call = runtime.prepare(Job(network, x, threads=1, kernels=False))
    torch.testing.assert_close(
        as_tensors(call()), as_tensors(network(x)), atol=1e-4, rtol=1e-3
    )
