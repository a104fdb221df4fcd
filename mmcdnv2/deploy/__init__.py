"""From a trained, sparse network to one that is deployed."""

from .condense import CondenseReport, condense_checkpoint

__all__ = ['CondenseReport', 'condense_checkpoint']
