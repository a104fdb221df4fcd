"""Measure how far back the layers of a dense network read (paper, Fig. 7)."""

import math
from typing import Dict, List, Optional, Sequence

import torch
from torch import Tensor

from .block_map import BlockMap, dense_chains, source_strength

# Distances in layers from a source to its reader.
DISTANCES = {
    '1 before': (1, 1),
    '2-3': (2, 3),
    '4-6': (4, 6),
    '7-10': (7, 10),
    '11 and more': (11, math.inf),
}
EARLY_USE = 'early use'
# The keys of :func:`measure_use`.
QUANTITIES = ('input', *DISTANCES, EARLY_USE)
# Layers with fewer sources have hardly a choice.
MIN_SOURCES = 3


def lgc_chains(blocks: List[BlockMap]) -> List[List[BlockMap]]:
    """Return the chains of dense blocks with LGCs.

    Args:
        blocks (list[BlockMap]): Blocks of one model.

    Returns:
        list[list[BlockMap]]: One chain for a CondenseNet, one per block for a
        DenseNet, none for a ShuffleNet.
    """
    return [
        chain
        for chain in dense_chains(blocks)
        if chain[0].kind == 'LGC' and len(chain[-1].sources) > 1
    ]


def relative_strength(chain: Sequence[BlockMap]) -> Tensor:
    """Return each source's strength divided by the mean over the layer's sources.

    Sources have equal weight in the mean, regardless of their number of channels.

    Args:
        chain (Sequence[BlockMap]): One of :func:`dense_chains`.

    Returns:
        Tensor: Shape (layers, sources). 1 for a source of mean strength; NaN if
        the source comes after the layer, or all of the layer's connections are
        pruned.
    """
    strength = source_strength(chain).double()
    return strength / strength.nanmean(1, keepdim=True)


def strength_by_distance(chain: Sequence[BlockMap]) -> Dict[str, Optional[float]]:
    """Return the mean relative strength of sources by their distance.

    Layers with fewer than :data:`MIN_SOURCES` sources are ignored.

    Args:
        chain (Sequence[BlockMap]): One of :func:`dense_chains`.

    Returns:
        dict[str, float | None]: First the chain's input ('input'), such as the
        stem, then layers by their distance to the reader, as in
        :data:`DISTANCES`. None if there is no such pair.
    """
    strength = relative_strength(chain)
    layers, sources = strength.shape
    # Source j is the output of layer j - 1.
    distance = torch.arange(layers)[:, None] - torch.arange(sources) + 1
    strength, distance = strength[MIN_SOURCES - 1 :], distance[MIN_SOURCES - 1 :]
    result = {'input': _mean(strength[:, 0])}
    strength, distance = strength[:, 1:], distance[:, 1:]
    for name, (low, high) in DISTANCES.items():
        result[name] = _mean(strength[(distance >= low) & (distance <= high)])
    return result


def early_use(chain: Sequence[BlockMap]) -> Optional[float]:
    """Return how much the last third of the layers reads early features.

    This is the mean relative strength with which the last third of the layers
    reads the chain's input and the first third of the layers.

    Args:
        chain (Sequence[BlockMap]): One of :func:`dense_chains`.

    Returns:
        float | None: 1 if early features are read like all others, 0 if they
        are not read. None for fewer than :data:`MIN_SOURCES` layers, or if all
        connections of the last third are pruned.
    """
    strength = relative_strength(chain)
    third = len(strength) // 3
    # Not [-third:], which is all layers if third is 0.
    return _mean(strength[len(strength) - third :, : third + 1])


def measure_use(chain: Sequence[BlockMap]) -> Dict[str, Optional[float]]:
    """Return all measures of a chain.

    Args:
        chain (Sequence[BlockMap]): One of :func:`dense_chains`.

    Returns:
        dict[str, float | None]: The results of :func:`strength_by_distance` and
        :func:`early_use`, with the keys :data:`QUANTITIES`.
    """
    return {**strength_by_distance(chain), EARLY_USE: early_use(chain)}


def _mean(values: Tensor) -> Optional[float]:
    mean = values.nanmean().item()
    return None if math.isnan(mean) else mean
