"""Heads for CondenseNet and SSDLite."""

from .lgc_cls_head import LGCClsHead
from .ssd_head import SSDLiteHead

__all__ = ['LGCClsHead', 'SSDLiteHead']
