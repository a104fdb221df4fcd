"""From a trained, sparse network to one that is deployed."""

from .checkpoint import load_checkpoint
from .condense import CondenseReport, condense_checkpoint

__all__ = ['CondenseReport', 'condense_checkpoint', 'load_checkpoint']
