"""Runner and hooks: training, testing and sparsification."""

from .channels_last_hook import ChannelsLastHook
from .runner import ExactRunner, add_runner_arguments, build_runner
from .sparsification_hook import SparsificationHook

__all__ = [
    'ChannelsLastHook',
    'ExactRunner',
    'SparsificationHook',
    'add_runner_arguments',
    'build_runner',
]
