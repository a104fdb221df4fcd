"""Counting, timing and drawing networks and their sparse layers."""

from .complexity import (
    count_macs,
    count_paper_elements,
    count_params,
    median_latency,
    time_rounds,
)
from .connection_map import (
    block_maps,
    connection_strength,
    dense_chains,
    source_strength,
)
from .zoo import Comparison, Cost, Published, ZooModel, measure, read_zoo

__all__ = [
    'Comparison',
    'Cost',
    'Published',
    'ZooModel',
    'block_maps',
    'connection_strength',
    'count_macs',
    'count_paper_elements',
    'count_params',
    'dense_chains',
    'measure',
    'median_latency',
    'read_zoo',
    'source_strength',
    'time_rounds',
]
