"""Time networks against their peers and the authors' structure."""

from .detector_plot import detector_figure
from .detectors import (
    DETECTORS,
    STEPS,
    DetectorReport,
    DetectorRow,
    DetectorSettings,
    measure_detectors,
)
from .latency import Report, Row, Settings, measure_latency
from .networks import NETWORKS, PARTS
from .plot import latency_figure
from .runtimes import RUNTIMES
from .training_cost import VARIANTS, TrainingCost, TrainingSetup, measure_training

__all__ = [
    'DETECTORS',
    'NETWORKS',
    'PARTS',
    'RUNTIMES',
    'STEPS',
    'VARIANTS',
    'DetectorReport',
    'DetectorRow',
    'DetectorSettings',
    'Report',
    'Row',
    'Settings',
    'TrainingCost',
    'TrainingSetup',
    'detector_figure',
    'latency_figure',
    'measure_detectors',
    'measure_latency',
    'measure_training',
]
