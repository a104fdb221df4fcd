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
from .source_use import (
    early_use,
    lgc_chains,
    measure_use,
    relative_strength,
    strength_by_distance,
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
    'early_use',
    'lgc_chains',
    'measure',
    'measure_use',
    'median_latency',
    'read_zoo',
    'relative_strength',
    'source_strength',
    'strength_by_distance',
    'time_rounds',
]
