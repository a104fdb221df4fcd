"""Cost of a network: parameters, multiply-accumulates and time."""

import math
import statistics
import time
from typing import Callable, Iterable, List, Sequence, Tuple, Type

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from .layers import CondensedConv2d


def count_params(module: nn.Module) -> int:
    """Number of parameters; masks and indices are buffers and do not count."""
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def _call_counted(
    module: nn.Module,
    inputs: Tensor,
    kinds: Tuple[Type[nn.Module], ...],
    count: Callable,
) -> None:
    handles = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, kinds)
    ]
    try:
        module(inputs)
    finally:
        for handle in handles:
            handle.remove()


def count_macs(module: nn.Module, inputs: Tensor) -> int:
    """Multiply-accumulates of all convolutions and linear layers.

    Args:
        module (nn.Module): Called as ``module(inputs)``.
        inputs (Tensor): A batch of one.

    Returns:
        int: MACs of one forward pass. A sparse convolution counts as the
        dense one that it runs as.
    """
    macs = 0

    def count(layer: nn.Module, _: Tuple[Tensor], output: Tensor) -> None:
        nonlocal macs
        is_linear = isinstance(layer, nn.Linear)
        channels = output.size(-1 if is_linear else 1)
        macs += layer.weight.numel() * (output.numel() // channels)

    # By modules, as a condensed layer may run on operators that do more.
    kinds = (nn.Conv2d, CondensedConv2d, nn.Linear)
    _call_counted(module, inputs, kinds, count)
    return macs


def count_paper_elements(module: nn.Module, inputs: Tensor) -> int:
    """Count the FLOPs that both CondenseNet papers add to the MACs.

    For each element one of a ReLU, ReLU6 or hard-swish, two of a sigmoid, and the
    window of a pooling. Maximum pooling, norms, biases, additions and
    products are free.

    Args:
        module (nn.Module): Called as ``module(inputs)``.
        inputs (Tensor): A batch of one.

    Returns:
        int: Operations of one forward pass.
    """
    elements = 0

    def count(layer: nn.Module, args: Tuple[Tensor], output: Tensor) -> None:
        nonlocal elements
        if isinstance(layer, nn.AvgPool2d):
            height, width = _pair(layer.kernel_size)
            elements += output.numel() * height * width
        elif isinstance(layer, (nn.Sigmoid, nn.Hardsigmoid)):
            elements += 2 * output.numel()
        else:
            elements += args[0].numel()

    counted = (
        nn.ReLU,
        nn.ReLU6,
        nn.Hardswish,
        nn.Sigmoid,
        nn.Hardsigmoid,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
    )
    _call_counted(module, inputs, counted, count)
    return elements


@torch.no_grad()
def time_rounds(
    functions: Sequence[Callable[[], object]], rounds: Iterable[int] = range(10)
) -> List[List[float]]:
    """Time functions in turns, so that a busy machine is busy for all of them.

    Each round begins with another function. Each turn begins with a call that
    is not timed: it pays for the caches and threads as the function before
    left them. What takes less than a millisecond is then called until one has
    passed.

    Args:
        functions (Sequence[Callable]): What to time.
        rounds (Iterable[int]): Numbers of the rounds.

    Returns:
        list[list[float]]: Milliseconds; a list with one entry for each round
        for each function.
    """
    times: List[List[float]] = [[] for _ in functions]
    turns = list(zip(functions, times))
    for number in rounds:
        start = number % len(turns)
        for function, record in turns[start:] + turns[:start]:
            calls = math.ceil(1 / _time(function, 1))
            record.append(_time(function, calls))
    return times


def _time(function: Callable[[], object], calls: int) -> float:
    """Mean time of some calls in milliseconds."""
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return 1000 * (time.perf_counter() - began) / calls


def median_latency(functions: Sequence[Callable[[], object]]) -> List[float]:
    """Median time of each function in ten rounds of :func:`time_rounds`.

    Args:
        functions (Sequence[Callable]): What to time.

    Returns:
        list[float]: Milliseconds, one for each function.
    """
    return [statistics.median(record) for record in time_rounds(functions)]
