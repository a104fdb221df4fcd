"""Training a grid of small networks and comparing what they come to."""

from .grid import COMPARISONS, ENTRIES, QUICK
from .plan import Settings, plan_study
from .run import run_trainings

__all__ = ['COMPARISONS', 'ENTRIES', 'QUICK', 'Settings', 'plan_study', 'run_trainings']
