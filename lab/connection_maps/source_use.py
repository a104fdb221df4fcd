"""How far back the layers of a dense network read, in numbers (paper, Fig. 7)."""

import math
from typing import Dict, List, Optional, Sequence

import torch
from torch import Tensor

from .block_map import BlockMap, dense_chains, source_strength

# By how many layers before the reader a source was computed.
DISTANCES = {
    '1 before': (1, 1),
    '2-3': (2, 3),
    '4-6': (4, 6),
    '7-10': (7, 10),
    '11 and more': (11, math.inf),
}
EARLY_USE = 'early use'
# What :func:`measure_use` tells.
QUANTITIES = ('input', *DISTANCES, EARLY_USE)
# A layer of fewer sources has hardly a choice.
MIN_SOURCES = 3


def lgc_chains(blocks: List[BlockMap]) -> List[List[BlockMap]]:
    """Choose the chains of dense blocks whose layers are LGCs.

    Args:
        blocks (list[BlockMap]): Of one model.

    Returns:
        list[list[BlockMap]]: Of a CondenseNet all its blocks, of a DenseNet
        each one, of a ShuffleNet none.
    """
    return [
        chain
        for chain in dense_chains(blocks)
        if chain[0].kind == 'LGC' and len(chain[-1].sources) > 1
    ]


def relative_strength(chain: Sequence[BlockMap]) -> Tensor:
    """Strength of each layer's sources by the mean of its sources' strengths.

    Each source counts alike, however many channels it has.

    Args:
        chain (Sequence[BlockMap]): One of :func:`dense_chains`.

    Returns:
        Tensor: Shape (layers, sources). 1 where a source is read like the mean;
        NaN where it comes after the layer, and in all the row of a layer whose
        connections are pruned entirely.
    """
    strength = source_strength(chain).double()
    return strength / strength.nanmean(1, keepdim=True)


def strength_by_distance(chain: Sequence[BlockMap]) -> Dict[str, Optional[float]]:
    """Mean relative strength of the sources that are equally far back.

    Layers with fewer than :data:`MIN_SOURCES` sources are left out.

    Args:
        chain (Sequence[BlockMap]): One of :func:`dense_chains`.

    Returns:
        dict[str, float | None]: First that of the chain's input ('input'), such
        as a network's stem; then those of the layers by how many layers before
        the reader they are, as in :data:`DISTANCES`. None where there is no
        such pair.
    """
    strength = relative_strength(chain)
    layers, sources = strength.shape
    # Source j is what layer j - 1 computed.
    distance = torch.arange(layers)[:, None] - torch.arange(sources) + 1
    strength, distance = strength[MIN_SOURCES - 1 :], distance[MIN_SOURCES - 1 :]
    result = {'input': _mean(strength[:, 0])}
    strength, distance = strength[:, 1:], distance[:, 1:]
    for name, (low, high) in DISTANCES.items():
        result[name] = _mean(strength[(distance >= low) & (distance <= high)])
    return result


def early_use(chain: Sequence[BlockMap]) -> Optional[float]:
    """How much the last third of the layers uses what the first third computed.

    That is the mean relative strength with which the last third of the layers
    reads the chain's input and the first third of the layers.

    Args:
        chain (Sequence[BlockMap]): One of :func:`dense_chains`.

    Returns:
        float | None: 1 if early features are read like all others, 0 if they
        are not read at all. None of fewer than :data:`MIN_SOURCES` layers, or
        if all connections of the last third are pruned.
    """
    strength = relative_strength(chain)
    third = len(strength) // 3
    # Without a third, [-0:] would be all layers.
    return _mean(strength[len(strength) - third :, : third + 1])


def measure_use(chain: Sequence[BlockMap]) -> Dict[str, Optional[float]]:
    """Tell all that there is to say in numbers of what a chain's layers read.

    Args:
        chain (Sequence[BlockMap]): One of :func:`dense_chains`.

    Returns:
        dict[str, float | None]: What :func:`strength_by_distance` and
        :func:`early_use` return, by the names in :data:`QUANTITIES`.
    """
    return {**strength_by_distance(chain), EARLY_USE: early_use(chain)}


def _mean(values: Tensor) -> Optional[float]:
    mean = values.nanmean().item()
    return None if math.isnan(mean) else mean
