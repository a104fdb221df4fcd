"""Train a grid of small networks and compare their errors."""

from .connections import Connections, study_connections
from .grid import COMPARISONS, ENTRIES, QUICK
from .plan import Settings
from .report import Report
from .study import report_study, run_study

__all__ = [
    'COMPARISONS',
    'ENTRIES',
    'QUICK',
    'Connections',
    'Report',
    'Settings',
    'report_study',
    'run_study',
    'study_connections',
]
