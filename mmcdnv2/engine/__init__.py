"""What drives training, testing and the sparsification between them."""

from .runner import build_runner, load_config
from .sparsification_hook import SparsificationHook

__all__ = ['SparsificationHook', 'build_runner', 'load_config']
