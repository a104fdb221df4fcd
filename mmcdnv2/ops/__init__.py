"""The native kernels for condensed layers: whether and which are used."""

from .library import describe, is_available, use_kernels

__all__ = ['describe', 'is_available', 'use_kernels']
