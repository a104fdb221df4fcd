"""Condense trained sparse networks for deployment."""

from .condense import CondenseReport, condense_checkpoint

__all__ = ['CondenseReport', 'condense_checkpoint']
