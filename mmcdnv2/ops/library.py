"""Load the native kernels and say whether they are used."""

import os
import threading
import warnings
from contextlib import contextmanager
from typing import Iterator, List, Optional

import torch
from torch import Tensor

from .build import BuildError, build

# '0' turns the kernels off; the name of an instruction set chooses it.
VARIABLE = 'MMCDNV2_KERNELS'

_lock = threading.Lock()


def _renew_lock() -> None:
    """Open the lock in a forked process, which lacks the thread that has it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
# Holds the fake implementations, which go with it. torch.library.register_fake
# does the same, but not in torch 2.1.
_library = torch.library.Library('mmcdnv2', 'FRAGMENT')
_enabled = True
_in_exports = False
_tried = False
# Why the kernels cannot be used; None once they are loaded.
_failure: Optional[str] = 'not loaded yet'


def _new_empty(x: Tensor, *sizes: int) -> Tensor:
    """Make the output that tells a shape, of an input that does the same."""
    if x.device.type != 'meta':
        raise RuntimeError(
            f'mmcdnv2: parameters are on the meta device, the input is on {x.device}'
        )
    return x.new_empty(sizes)


def _fake_dense_block(
    x: Tensor,
    params: List[Tensor],
    spec: List[int],
    eps: List[float],
    pool: bool,
    new_channels: int,
) -> Tensor:
    """Tell a dense block's output without computing it."""
    height, width = (size // 2 if pool else size for size in x.shape[2:])
    return _new_empty(x, x.size(0), x.size(1) + new_channels, height, width)


def _fake_reactivate(
    old: Tensor, new: Tensor, params: List[Tensor], spec: List[int], eps: List[float]
) -> Tensor:
    """Tell a reactivation's output without computing it."""
    return _new_empty(old, *old.shape)


def _fake_pool_excite(
    x: Tensor, params: List[Tensor], spec: List[int], eps: List[float]
) -> Tensor:
    """Tell a neck's output without computing it."""
    return _new_empty(x, x.size(0), x.size(1))


def _fake_learned_group_conv(
    x: Tensor,
    params: List[Tensor],
    spec: List[int],
    eps: List[float],
    out_channels: int,
) -> Tensor:
    """Tell a learned group convolution's output without computing it."""
    return _new_empty(x, x.size(0), out_channels, *x.shape[2:])


def _fake_stem(
    x: Tensor,
    params: List[Tensor],
    spec: List[int],
    eps: List[float],
    out_channels: int,
) -> Tensor:
    """Tell a stem's output without computing it."""
    height, width = ((size + 1) // 2 for size in x.shape[2:])
    return _new_empty(x, x.size(0), out_channels, height, width)


def _fake_backbone(
    x: Tensor,
    params: List[Tensor],
    spec: List[int],
    eps: List[float],
    pools: List[int],
    channels: List[int],
    out_indices: List[int],
) -> List[Tensor]:
    """Tell a backbone's outputs without computing them."""
    height, width = ((size + 1) // 2 for size in x.shape[2:])
    outs = []
    for i, (pool, count) in enumerate(zip(pools, channels)):
        if pool:
            height, width = height // 2, width // 2
        if i in out_indices:
            outs.append(_new_empty(x, x.size(0), count, height, width))
    return outs


def _try_to_load() -> Optional[str]:
    """Load the kernels; return why they cannot be used, or None."""
    choice = os.environ.get(VARIABLE, '').strip().lower()
    if choice in ('0', 'off', 'false'):
        return f'turned off by {VARIABLE}={choice}'
    try:
        torch.ops.load_library(str(build()))
        if choice not in ('', '1', 'on', 'true'):
            torch.ops.mmcdnv2.choose_kernels(choice)
    except (BuildError, OSError, RuntimeError) as error:
        reason = str(error)
        warnings.warn(
            'The native kernels cannot be used, so condensed networks run on slower '
            f'PyTorch operators with the same output: {reason}',
            stacklevel=2,
        )
        return reason.splitlines()[0]
    for name, fake in (
        ('backbone', _fake_backbone),
        ('dense_block', _fake_dense_block),
        ('learned_group_conv', _fake_learned_group_conv),
        ('pool_excite', _fake_pool_excite),
        ('reactivate', _fake_reactivate),
        ('stem', _fake_stem),
    ):
        _library.impl(name, fake, 'Meta')
    return None


def load() -> bool:
    """Load the kernels, and compile them if no process has done so yet.

    The first call may take half a minute; all others return at once.

    Returns:
        bool: Whether the kernels can be used and are not turned off.
    """
    global _tried, _failure
    if not _tried:
        with _lock:
            if not _tried:
                _failure = _try_to_load()
                _tried = True
    return is_loaded()


def is_loaded() -> bool:
    """Whether the kernels are loaded and not turned off."""
    return _enabled and _failure is None


def forget(param: Tensor) -> None:
    """Let the kernels pack parameters anew that may have changed unseen.

    Args:
        param (Tensor): The first that an operator was called with.
    """
    if _failure is None:
        torch.ops.mmcdnv2.forget(param)


def describe() -> str:
    """Load the kernels; say in one line what condensed layers run on."""
    if not load():
        reason = _failure or 'turned off by use_kernels(False)'
        return f'PyTorch operators ({reason})'
    chosen = os.environ.get(VARIABLE, '').strip().lower()
    names = torch.ops.mmcdnv2.kernel_names()
    return f'native kernels ({chosen if chosen in names else names[0]})'


@contextmanager
def use_kernels(enabled: bool) -> Iterator[None]:
    """Turn the kernels on or off inside of a ``with``.

    Args:
        enabled (bool): Whether condensed layers may use them. The environment
            variable ``MMCDNV2_KERNELS=0`` turns them off for good.
    """
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


@contextmanager
def kernels_in_exports() -> Iterator[None]:
    """Let an exporter record the kernels that were planned before."""
    global _in_exports
    before, _in_exports = _in_exports, True
    try:
        yield
    finally:
        _in_exports = before


def records_kernels() -> bool:
    """Whether an exporter knows what to make of kernels."""
    return _in_exports
