"""Heads that the networks' classifiers need."""

from .lgc_cls_head import LGCClsHead

__all__ = ['LGCClsHead']
