"""From a trained, sparse network to one that is deployed."""

from .checkpoint import load_checkpoint
from .condense import CondenseReport, condense

__all__ = ['CondenseReport', 'condense', 'load_checkpoint']
