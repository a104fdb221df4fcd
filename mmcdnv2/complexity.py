"""Measure a network's parameters, multiply-accumulates and latency."""

import math
import statistics
import time
from typing import Callable, Iterable, List, Sequence, Tuple, Type

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from .layers import CondensedConv2d


def count_params(module: nn.Module) -> int:
    """Return the number of parameters, without buffers such as masks and indices."""
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
    """Count the multiply-accumulates of all convolutions and linear layers.

    Args:
        module (nn.Module): Called as ``module(inputs)``.
        inputs (Tensor): A batch of one.

    Returns:
        int: MACs of one forward pass. Sparse convolutions count as dense, as
        they run.
    """
    macs = 0

    def count(layer: nn.Module, _: Tuple[Tensor], output: Tensor) -> None:
        nonlocal macs
        is_linear = isinstance(layer, nn.Linear)
        channels = output.size(-1 if is_linear else 1)
        macs += layer.weight.numel() * (output.numel() // channels)

    # Counts modules, because a condensed layer may run operators that do more.
    kinds = (nn.Conv2d, CondensedConv2d, nn.Linear)
    _call_counted(module, inputs, kinds, count)
    return macs


def count_paper_elements(module: nn.Module, inputs: Tensor) -> int:
    """Count the FLOPs that both CondenseNet papers add to the MACs.

    Per element: 1 for ReLU, ReLU6 and hard-swish, 2 for sigmoids, and the window
    size for average poolings. Maximum pooling, norms, biases, additions and
    products count 0.

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
    """Time functions in interleaved rounds, so that load affects all alike.

    Each round begins with another function. Each turn begins with a warm-up call,
    after which a function that takes less than a millisecond is repeated for about
    a millisecond.

    Args:
        functions (Sequence[Callable]): Functions to time.
        rounds (Iterable[int]): Numbers of the rounds.

    Returns:
        list[list[float]]: Milliseconds; for each function a list with one entry
        per round.
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
    """Return the mean time of some calls in milliseconds."""
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return 1000 * (time.perf_counter() - began) / calls


def median_latency(functions: Sequence[Callable[[], object]]) -> List[float]:
    """Return each function's median time in ten rounds of :func:`time_rounds`.

    Args:
        functions (Sequence[Callable]): Functions to time.

    Returns:
        list[float]: Milliseconds, one for each function.
    """
    return [statistics.median(record) for record in time_rounds(functions)]
