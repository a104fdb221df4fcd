"""The cost of a training step."""

import pytest
import torch

from lab.benchmark.training_cost import (
    VARIANTS,
    TrainingSetup,
    measure_training,
    peak_memory,
)
from mmcdnv2.errors import InputError


def test_peak_memory_by_hand():
    kept = torch.ones(3, 2**18)

    def step():
        first = kept + 1
        second = first[:2] * 2
        del first
        return second + 1

    # 3 MB and 2 MB, then 2 MB and 2 MB.
    assert peak_memory(step) == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize('part', ['classifier', 'backbone'])
def test_compares_variants(tiny_configs, part):
    config = tiny_configs['classifier' if part == 'classifier' else 'detector']
    calls = []
    setup = TrainingSetup(config, part, batch=4, shape=(96, 64))
    costs = measure_training(setup, 1, lambda: calls.append(1))
    assert [cost.variant for cost in costs] == list(VARIANTS)
    ours, recomputing, authors = (cost.peak_megabytes for cost in costs)
    assert recomputing < ours < authors
    for cost in costs:
        assert cost.images_per_second == pytest.approx(4000 / cost.milliseconds)
    assert len(calls) == 9


def test_rejects_bad_setups(tiny_configs, configs):
    detector = tiny_configs['detector']
    with pytest.raises(InputError, match='is not a classifier'):
        measure_training(TrainingSetup(detector))
    with pytest.raises(InputError, match='at least 1'):
        measure_training(TrainingSetup(detector, batch=0))
    other = str(configs / 'shufflenetv2_0.5x_16xb64_in1k.py')
    with pytest.raises(InputError, match='has no CondenseNetV2'):
        measure_training(TrainingSetup(other))
