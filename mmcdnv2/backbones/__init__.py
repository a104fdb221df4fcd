"""Backbones built from the sparse convolutions."""

from .condensenetv2 import CondenseNetV2

__all__ = ['CondenseNetV2']
