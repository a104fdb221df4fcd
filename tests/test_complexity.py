"""Counting and timing."""

from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from mmcv.cnn import ConvModule
from mmengine.analysis import get_model_complexity_info
from torch import nn

from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.complexity import (
    count_macs,
    count_paper_elements,
    count_params,
    median_latency,
    time_rounds,
)
from mmcdnv2.layers import LGC, SFR, condense_layers


def test_macs_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, groups=1),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    macs = 3 * 8 * 9 * 6 * 4 + 8 * 5
    assert count_macs(model, torch.rand(1, 3, 6, 4)) == macs
    assert count_params(model) == 3 * 8 * 9 + 8 + 16 + 8 * 5 + 5


def test_paper_elements_by_hand():
    model = nn.Sequential(
        nn.ReLU6(),
        nn.Hardswish(),
        nn.AvgPool2d((2, 2)),
        nn.MaxPool2d(1),
        nn.BatchNorm2d(3),
        nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1),
    ).eval()
    # 3x6x4 in, 3x3x2 behind the pooling with its window of 4.
    elements = 72 + 72 + 4 * 18 + 2 * 18 + 18
    assert count_paper_elements(model, torch.rand(1, 3, 6, 4)) == elements
    # It leaves nothing behind.
    assert count_paper_elements(model, torch.rand(1, 3, 6, 4)) == elements


def test_condensing_divides_macs_by_the_factor():
    model = nn.Sequential(
        ConvModule(32, 16, 1, groups=4, conv_cfg=dict(type='LGC')),
        ConvModule(16, 32, 1, groups=4, conv_cfg=dict(type='SFR')),
    )
    x = torch.rand(1, 32, 5, 5)
    dense = count_macs(model, x)
    assert dense == 2 * 32 * 16 * 25
    for layer in model.modules():
        if isinstance(layer, (LGC, SFR)):
            layer.set_progress(1)
    condense_layers(model)
    assert count_macs(model, x) == dense // 4


def test_a_layer_called_twice_costs_twice_but_is_one():
    layer = LGC(8, 8, groups=4, bias=False)
    layer.set_progress(1)
    model = nn.ModuleDict(dict(a=layer, b=layer))
    model.forward = lambda x: model['b'](model['a'](x))
    x = torch.rand(1, 8, 3, 3)
    assert (count_macs(model, x), count_params(model)) == (2 * 64 * 9, 64)
    condense_layers(model)
    assert (count_macs(model, x), count_params(model)) == (2 * 16 * 9, 16)


def test_mmengine_counts_what_docs_networks_says():
    """Its tracing sees SFR's dense form: what users compare with our figures."""
    backbone = CondenseNetV2('c', deploy=True).eval()
    theirs = get_model_complexity_info(backbone, (3, 224, 224))['flops']
    ours = count_macs(backbone, torch.rand(1, 3, 224, 224))
    docs = (ROOT / 'docs/networks.md').read_text()
    assert f'{theirs / 1e6:.1f}M for the backbone of C' in docs
    assert f'count as {ours / 1e6:.1f}M' in docs


@pytest.fixture
def sleep(monkeypatch):
    """A clock that only sleeping moves on: a real one depends on the machine."""
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    monkeypatch.setattr('mmcdnv2.complexity.time', clock)

    def move_on(seconds):
        now[0] += seconds

    return move_on


def test_time_rounds(sleep):
    calls = []

    def work(name, seconds):
        def function():
            # The first of each turn, which is not timed, takes longer.
            starts = not calls or calls[-1] != name
            calls.append(name)
            sleep(0.05 if starts else seconds)

        return function

    functions = [work('a', 0.002), work('b', 0.02), work('c', 0.01)]
    times = time_rounds(functions, range(4))
    for record, expected in zip(times, (2, 20, 10)):
        assert record == pytest.approx([expected] * 4)
    # Rounds are interleaved, and each begins with the next function.
    assert ''.join(calls[::2]) == ''.join(calls[1::2]) == 'abcbcacababc'


def test_short_functions_are_timed_for_a_millisecond(sleep):
    calls = []

    def function():
        calls.append(0)
        sleep(0.0001)

    [[milliseconds]] = time_rounds([function], range(1))
    assert len(calls) == 11
    assert milliseconds == pytest.approx(0.1)


def test_median_latency(sleep):
    durations = iter([9, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9, 6, 9, 7, 9, 8, 9, 9, 9, 10])
    [milliseconds] = median_latency([lambda: sleep(next(durations))])
    assert milliseconds == pytest.approx(5500)
