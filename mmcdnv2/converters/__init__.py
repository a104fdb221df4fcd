"""Convert checkpoints of other projects."""

from .official import convert_official

__all__ = ['convert_official']
