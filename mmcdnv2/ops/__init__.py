"""The native kernels for condensed layers: whether and which are used."""

from .library import describe, load, use_kernels

__all__ = ['describe', 'load', 'use_kernels']
