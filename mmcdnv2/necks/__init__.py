"""Necks that the networks' classifiers need."""

from .se_pooling import SEGlobalAveragePooling

__all__ = ['SEGlobalAveragePooling']
