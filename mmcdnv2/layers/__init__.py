"""LGC and SFR, their condensed forms, and modules built on them."""

from ..ops.kernel_module import kernel_report
from .condensed_conv import CondensedConv2d, CondensedLGC, CondensedSFR
from .grouping import channel_shuffle
from .lgc_module import LGCModule
from .ordered_conv_module import OrderedConvModule
from .se_layer import NormedSELayer
from .sfr_module import SFRModule
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
    'LGCModule',
    'SFRModule',
    'CondensedConv2d',
    'CondensedLGC',
    'CondensedSFR',
    'NormedSELayer',
    'OrderedConvModule',
    'SparseConv2d',
    'channel_shuffle',
    'condense_layers',
    'kept_fraction',
    'kernel_report',
    'sparse_layers',
    'stage_of',
    'unfinished_layers',
]
