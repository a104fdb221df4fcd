"""Measure, compare and draw the connections of sparse layers."""

from .block_map import (
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

__all__ = [
    'block_maps',
    'connection_strength',
    'dense_chains',
    'early_use',
    'lgc_chains',
    'measure_use',
    'relative_strength',
    'source_strength',
    'strength_by_distance',
]
