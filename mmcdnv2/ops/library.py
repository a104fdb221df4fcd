"""Load the native kernels and say whether they are used."""

import os
import threading
import warnings
from contextlib import contextmanager
from typing import Iterator, List, Optional, Sequence

import torch
from torch import Tensor

from .build import BuildError, build

# '0' turns the kernels off; the name of an instruction set chooses it.
VARIABLE = 'MMCDNV2_KERNELS'

_lock = threading.Lock()
# Holds the fake implementations, which go with it. torch.library.register_fake
# does the same, but not in torch 2.1.
_library = torch.library.Library('mmcdnv2', 'FRAGMENT')
_enabled = True
# Why they cannot be used; None: they can; '?': nobody asked yet.
_obstacle: Optional[str] = '?'


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
    return x.new_empty(x.size(0), x.size(1) + new_channels, height, width)


def _fake_reactivate(
    old: Tensor, new: Tensor, params: List[Tensor], spec: List[int], eps: List[float]
) -> Tensor:
    """Tell a reactivation's output without computing it."""
    return old.new_empty(old.shape)


def _fake_pool_excite(
    x: Tensor, params: List[Tensor], spec: List[int], eps: List[float]
) -> Tensor:
    """Tell a neck's output without computing it."""
    return x.new_empty(x.size(0), x.size(1))


def _fake_stem(
    x: Tensor,
    params: List[Tensor],
    spec: List[int],
    eps: List[float],
    out_channels: int,
) -> Tensor:
    """Tell a stem's output without computing it."""
    height, width = ((size + 1) // 2 for size in x.shape[2:])
    return x.new_empty(x.size(0), out_channels, height, width)


def _load() -> Optional[str]:
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
        ('dense_block', _fake_dense_block),
        ('pool_excite', _fake_pool_excite),
        ('reactivate', _fake_reactivate),
        ('stem', _fake_stem),
    ):
        _library.impl(name, fake, 'Meta')
    return None


def obstacle() -> Optional[str]:
    """Say why the kernels cannot be used; None if they can.

    The first call compiles them, unless another process has, and loads them.
    """
    global _obstacle
    if _obstacle == '?':
        with _lock:
            if _obstacle == '?':
                _obstacle = _load()
    return _obstacle if _enabled or _obstacle else 'turned off by use_kernels(False)'


def is_loaded() -> bool:
    """Whether they can be used at once, with nothing left to compile."""
    return _enabled and _obstacle is None


def forget(params: Sequence[Tensor]) -> None:
    """Let the kernels pack parameters anew that may have changed unseen.

    Args:
        params (Sequence[Tensor]): What an operator was called with.
    """
    if _obstacle is None:
        torch.ops.mmcdnv2.forget(params[0])


def is_available() -> bool:
    """Whether the kernels can be used and are not turned off."""
    return obstacle() is None


def describe() -> str:
    """Say in one line what condensed layers run on."""
    reason = obstacle()
    if reason:
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
