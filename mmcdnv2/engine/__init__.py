"""Runner and hooks: training, testing and sparsification."""

from .channels_last_hook import ChannelsLastHook
from .runner import add_runner_arguments, build_runner
from .sparsification_hook import SparsificationHook

__all__ = [
    'ChannelsLastHook',
    'SparsificationHook',
    'add_runner_arguments',
    'build_runner',
]
