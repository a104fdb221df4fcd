"""Measure the cost of a training step, ours and with the authors' structure."""

import json
import statistics
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, List, Tuple

import torch
from mmpretrain.models import BaseClassifier
from torch import nn

from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.builder import build_model
from mmcdnv2.complexity import time_rounds
from mmcdnv2.config import load_config
from mmcdnv2.errors import InputError

from .authors_structure import trained_as_the_authors

VARIANTS = ('ours', 'ours, with_cp', "authors' structure")


@dataclass
class TrainingSetup:
    """The network to train and its input.

    Attributes:
        config (str): Config file of a classifier or a detector.
        part (str): 'classifier', with the cross-entropy of random labels as loss,
            or 'backbone', with the sum of its outputs' means.
        batch (int): Number of images.
        shape (tuple[int]): Their height and width in pixels.
        threads (int): Number of PyTorch threads.
        channels_last (bool): Whether weights and features use the channels-last
            format, as with :class:`~mmcdnv2.engine.ChannelsLastHook`.
    """

    config: str
    part: str = 'classifier'
    batch: int = 16
    shape: Tuple[int, int] = (224, 224)
    threads: int = 1
    channels_last: bool = False


@dataclass
class TrainingCost:
    """Cost of one variant's training step.

    Attributes:
        variant (str): One of ``VARIANTS``.
        milliseconds (float): Median time of a step.
        images_per_second (float): The corresponding throughput.
        peak_megabytes (float): See :func:`peak_memory`.
    """

    variant: str
    milliseconds: float
    images_per_second: float
    peak_megabytes: float


def training_step(setup: TrainingSetup, variant: str) -> Callable[[], None]:
    """Build a variant's model and its training step.

    Args:
        setup (TrainingSetup): The network and its input.
        variant (str): One of ``VARIANTS``.

    Returns:
        Callable: Runs one step: forward, backward and SGD with momentum.

    Raises:
        InputError: If the config's model does not match the setup.
    """
    torch.manual_seed(0)
    model = build_model(load_config(setup.config))
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, CondenseNetV2):
        raise InputError(f'{setup.config} has no CondenseNetV2 to train.')
    if setup.part == 'classifier' and not isinstance(model, BaseClassifier):
        raise InputError(
            f'{setup.config} is not a classifier: only its backbone can be measured.'
        )
    for layer in backbone.modules():
        if hasattr(layer, 'with_cp'):
            layer.with_cp = variant == 'ours, with_cp'
    if setup.part == 'backbone':
        model = backbone
    model.train()
    if variant == "authors' structure":
        model = trained_as_the_authors(model)
    if setup.channels_last:
        model.to(memory_format=torch.channels_last)
    images = torch.randn(setup.batch, 3, *setup.shape)
    # Ten classes, the fewest of all datasets here.
    labels = torch.randint(10, (setup.batch,))
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, 1e-3, momentum=0.9)

    @torch.enable_grad()
    def step() -> None:
        outs = model(images)
        if setup.part == 'backbone':
            loss = sum(out.mean() for out in outs)
        else:
            loss = nn.functional.cross_entropy(outs, labels)
        loss.backward()
        optimizer.step()
        # At the end, so that a step ends in the state in which it began.
        optimizer.zero_grad()

    return step


def peak_memory(step: Callable[[], object]) -> float:
    """Return the peak memory of the tensors that a call allocates on the CPU.

    Includes tensors saved for the backward pass, gradients and temporary tensors;
    excludes earlier tensors, such as weights and momentum, and allocations outside
    PyTorch. Unlike a process's memory, the result is the same in every run.

    Args:
        step (Callable): Called once under PyTorch's profiler.

    Returns:
        float: Memory in MB of 2^20 bytes.
    """
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        step()
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'trace.json'
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())['traceEvents']
    changes = sorted(
        (float(event['ts']), event['args']['Bytes'])
        for event in events
        if event['name'] == '[memory]'
    )
    return max(accumulate((size for _, size in changes), initial=0)) / 2**20


def measure_training(
    setup: TrainingSetup, rounds: int = 3, progress: Callable[[], object] = bool
) -> List[TrainingCost]:
    """Measure all variants in the same run.

    Args:
        setup (TrainingSetup): The network and its input.
        rounds (int): Rounds of :func:`time_rounds`. Defaults to 3.
        progress (Callable): Called after each of the ``(2 * rounds + 1) *
            len(VARIANTS)`` steps (half of them timed), or after more if steps
            take less than a millisecond.

    Returns:
        list[TrainingCost]: One for each of ``VARIANTS``.

    Raises:
        InputError: If a number is too small or the config's model does not match
            the setup.
    """
    if min(setup.batch, setup.threads, rounds) < 1 or min(setup.shape) < 32:
        raise InputError(
            'Batch, threads and rounds must be at least 1, height and width 32 pixels.'
        )

    def reporting(step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            step()
            progress()

        return run

    threads = torch.get_num_threads()
    torch.set_num_threads(setup.threads)
    try:
        steps = [reporting(training_step(setup, variant)) for variant in VARIANTS]
        times = map(statistics.median, time_rounds(steps, range(rounds)))
        # Memory last, because the first step also allocates the momentum.
        peaks = map(peak_memory, steps)
        return [
            TrainingCost(variant, time, 1000 * setup.batch / time, peak)
            for variant, time, peak in zip(VARIANTS, times, peaks)
        ]
    finally:
        torch.set_num_threads(threads)
