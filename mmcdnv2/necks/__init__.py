"""Necks: what classifiers need, and laterals that make detectors light."""

from .learned_group_laterals import LearnedGroupLaterals
from .se_pooling import SEGlobalAveragePooling

__all__ = ['LearnedGroupLaterals', 'SEGlobalAveragePooling']
