"""What a network costs: parameters, multiply-accumulates and time."""

import statistics
import time
from typing import Callable, List, Sequence

import torch
from mmengine.analysis import FlopAnalyzer
from torch import Tensor, nn


def count_params(module: nn.Module) -> int:
    """Number of parameters; masks and indices are buffers and do not count."""
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def count_macs(module: nn.Module, inputs: Tensor) -> int:
    """Multiply-accumulates of all convolutions and linear layers.

    Args:
        module (nn.Module): Called as ``module(inputs)``.
        inputs (Tensor): A batch of one.

    Returns:
        int: MACs of one forward pass. A sparse convolution counts as the
        dense one that it runs as.
    """
    analyzer = FlopAnalyzer(module, inputs)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analyzer.tracer_warnings('none')
    by_operator = analyzer.by_operator()
    return int(sum(by_operator[name] for name in ('conv', 'linear', 'addmm')))


@torch.no_grad()
def median_latency(
    functions: Sequence[Callable[[], object]], rounds: int = 10
) -> List[float]:
    """Median time of each function; rounds are interleaved.

    Args:
        functions (Sequence[Callable]): What to time.
        rounds (int): Timed calls of each, after one that is not timed.

    Returns:
        list[float]: Milliseconds, one for each function.
    """
    times: List[List[float]] = [[] for _ in functions]
    for function in functions:
        function()
    for _ in range(rounds):
        for function, record in zip(functions, times):
            began = time.perf_counter()
            function()
            record.append(1000 * (time.perf_counter() - began))
    return [statistics.median(record) for record in times]
