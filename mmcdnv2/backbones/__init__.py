"""Backbones with LGC and SFR layers."""

from .condensenetv2 import CondenseNetV2
from .sfr_shufflenetv2 import SFRShuffleNetV2
from .shufflenetv2_plus import ShuffleNetV2Plus

__all__ = ['CondenseNetV2', 'SFRShuffleNetV2', 'ShuffleNetV2Plus']
