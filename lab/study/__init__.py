"""Training a grid of small networks and comparing what they come to."""

from .connections import Connections, study_connections
from .grid import COMPARISONS, ENTRIES, QUICK
from .plan import Settings
from .progress import ProgressDisplay
from .report import Report
from .study import report_study, run_study

__all__ = [
    'COMPARISONS',
    'ENTRIES',
    'QUICK',
    'Connections',
    'ProgressDisplay',
    'Report',
    'Settings',
    'report_study',
    'run_study',
    'study_connections',
]
