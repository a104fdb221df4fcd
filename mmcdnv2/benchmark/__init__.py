"""Timing networks against their peers and against the authors' structure."""

from .latency import Report, Row, Settings, measure_latency
from .networks import NETWORKS, PARTS
from .plot import latency_figure
from .runtimes import RUNTIMES
from .training_cost import VARIANTS, TrainingCost, TrainingSetup, measure_training

__all__ = [
    'NETWORKS',
    'PARTS',
    'RUNTIMES',
    'VARIANTS',
    'Report',
    'Row',
    'Settings',
    'TrainingCost',
    'TrainingSetup',
    'latency_figure',
    'measure_latency',
    'measure_training',
]
