"""Counting and timing networks."""

from .complexity import count_macs, count_params, median_latency

__all__ = ['count_macs', 'count_params', 'median_latency']
