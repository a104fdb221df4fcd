"""Counting and timing networks, and looking at what they learned."""

from .complexity import count_macs, count_paper_elements, count_params, median_latency
from .zoo import Comparison, Cost, Published, ZooModel, measure, read_zoo

__all__ = [
    'Comparison',
    'Cost',
    'Published',
    'ZooModel',
    'count_macs',
    'count_paper_elements',
    'count_params',
    'measure',
    'median_latency',
    'read_zoo',
]
