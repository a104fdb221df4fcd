"""The two sparse convolutions and their condensed forms."""

from .condensed_conv import CondensedLGC, CondensedSFR
from .sparse_conv import (
    LGC,
    SFR,
    SparseConv2d,
    condense_layers,
    kept_fraction,
    sparse_layers,
    stage_of,
    unfinished_layers,
)

__all__ = [
    'LGC',
    'SFR',
    'CondensedLGC',
    'CondensedSFR',
    'SparseConv2d',
    'condense_layers',
    'kept_fraction',
    'sparse_layers',
    'stage_of',
    'unfinished_layers',
]
