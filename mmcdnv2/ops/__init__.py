"""Native kernels for condensed layers: load, describe and switch them."""

from .library import describe, load, use_kernels

__all__ = ['describe', 'load', 'use_kernels']
