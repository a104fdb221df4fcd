"""From other projects' checkpoints to ours."""

from .official import convert_official

__all__ = ['convert_official']
