"""Runner and hooks: training, testing and sparsification."""

from .channels_last_hook import ChannelsLastHook
from .runner import ExactRunner, build_runner
from .sparsification_hook import SparsificationHook

__all__ = [
    'ChannelsLastHook',
    'ExactRunner',
    'SparsificationHook',
    'build_runner',
]
