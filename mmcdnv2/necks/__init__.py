"""Necks: pooling for classifiers and light laterals for detectors."""

from .learned_group_laterals import LearnedGroupLaterals
from .se_pooling import SEGlobalAveragePooling

__all__ = ['LearnedGroupLaterals', 'SEGlobalAveragePooling']
