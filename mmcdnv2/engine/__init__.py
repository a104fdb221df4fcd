"""Runner and hooks: training, testing and sparsification."""

from .channels_last_hook import ChannelsLastHook
from .repeatable_hook import RepeatableHook
from .runner import ExactRunner, TrainingRunner, build_runner
from .sparsification_hook import SparsificationHook

__all__ = [
    'ChannelsLastHook',
    'ExactRunner',
    'RepeatableHook',
    'SparsificationHook',
    'TrainingRunner',
    'build_runner',
]
