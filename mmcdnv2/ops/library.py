"""Load the native kernels and switch them on and off."""

import os
import threading
import warnings
from contextlib import contextmanager
from typing import Iterator, List, Optional

import torch
from torch import Tensor

from .build import BuildError, build

# '0' disables the kernels; an instruction set's name selects it.
VARIABLE = 'MMCDNV2_KERNELS'

_lock = threading.Lock()


def _renew_lock() -> None:
    """Replace the lock in a forked process, where its owning thread is missing."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
# Keeps the fake implementations registered. torch 2.1 has no
# torch.library.register_fake.
_library = torch.library.Library('mmcdnv2', 'FRAGMENT')
_enabled = True
_in_exports = False
_tried = False
# The reason why the kernels cannot be used; None once they are loaded.
_failure: Optional[str] = 'not loaded yet'


def _new_empty(x: Tensor, *sizes: int) -> Tensor:
    """Return an empty output for an input on the meta device."""
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
    """Return the dense block's output on the meta device."""
    height, width = (size // 2 if pool else size for size in x.shape[2:])
    return _new_empty(x, x.size(0), x.size(1) + new_channels, height, width)


def _fake_reactivate(
    old: Tensor, new: Tensor, params: List[Tensor], spec: List[int], eps: List[float]
) -> Tensor:
    """Return the reactivation's output on the meta device."""
    return _new_empty(old, *old.shape)


def _fake_pool_excite(
    x: Tensor, params: List[Tensor], spec: List[int], eps: List[float]
) -> Tensor:
    """Return the pooling's output on the meta device."""
    return _new_empty(x, x.size(0), x.size(1))


def _fake_learned_group_conv(
    x: Tensor,
    params: List[Tensor],
    spec: List[int],
    eps: List[float],
    out_channels: int,
) -> Tensor:
    """Return the learned group convolution's output on the meta device."""
    return _new_empty(x, x.size(0), out_channels, *x.shape[2:])


def _fake_stem(
    x: Tensor,
    params: List[Tensor],
    spec: List[int],
    eps: List[float],
    out_channels: int,
) -> Tensor:
    """Return the stem's output on the meta device."""
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
    """Return the backbone's outputs on the meta device."""
    height, width = ((size + 1) // 2 for size in x.shape[2:])
    outs = []
    for i, (pool, count) in enumerate(zip(pools, channels)):
        if pool:
            height, width = height // 2, width // 2
        if i in out_indices:
            outs.append(_new_empty(x, x.size(0), count, height, width))
    return outs


def _try_to_load() -> Optional[str]:
    """Load the kernels; return the reason if they cannot be used."""
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
            'The native kernels cannot be used; condensed networks run on slower '
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
    """Load the kernels, compiling them if they are not cached.

    The first call may take half a minute.

    Returns:
        bool: Whether the kernels can be used and are enabled.
    """
    global _tried, _failure
    if not _tried:
        with _lock:
            if not _tried:
                _failure = _try_to_load()
                _tried = True
    return is_loaded()


def is_loaded() -> bool:
    """Return whether the kernels are loaded and enabled."""
    return _enabled and _failure is None


def forget(param: Tensor) -> None:
    """Invalidate the packed-weight cache of an operator.

    Args:
        param (Tensor): The first parameter that the operator was called with.
    """
    if _failure is None:
        torch.ops.mmcdnv2.forget(param)


def describe() -> str:
    """Load the kernels and describe in one line what condensed layers run on."""
    if not load():
        reason = _failure or 'turned off by use_kernels(False)'
        return f'PyTorch operators ({reason})'
    chosen = os.environ.get(VARIABLE, '').strip().lower()
    names = torch.ops.mmcdnv2.kernel_names()
    return f'native kernels ({chosen if chosen in names else names[0]})'


@contextmanager
def use_kernels(enabled: bool) -> Iterator[None]:
    """Enable or disable the kernels inside a ``with`` statement.

    Args:
        enabled (bool): Whether condensed layers may use the kernels. The
            environment variable ``MMCDNV2_KERNELS=0`` always disables them.
    """
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


@contextmanager
def kernels_in_exports() -> Iterator[None]:
    """Let an exporter record the kernels planned by ``plan_kernels``."""
    global _in_exports
    before, _in_exports = _in_exports, True
    try:
        yield
    finally:
        _in_exports = before


def is_exporting() -> bool:
    """Return whether an exporter records kernels."""
    return _in_exports
