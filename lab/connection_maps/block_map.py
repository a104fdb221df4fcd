"""The connections of sparse layers and their strengths (paper, Figs. 6 and 7)."""

import os
from dataclasses import dataclass
from itertools import groupby
from operator import contains
from typing import Dict, List, Optional, Sequence, Set, Union

import torch
from torch import Tensor, nn

from mmcdnv2.layers import LGC, SFR, CondensedConv2d, SparseConv2d

# Sparse and condensed form of each kind of layer.
KINDS = {kind.__name__: (kind, kind.condensed_type) for kind in (LGC, SFR)}


@dataclass(frozen=True)
class LayerMap:
    """The connections of one LGC or SFR.

    Attributes:
        name (str): Name of the layer in its model.
        label (str): What tells it from the model's other layers of its kind,
            such as '2.3' for ``backbone.blocks.2.3.lgc.conv``.
        strength (Tensor): What :func:`connection_strength` says of it, shape
            (groups, columns).
    """

    name: str
    label: str
    strength: Tensor


@dataclass(frozen=True)
class BlockMap:
    """The layers of one kind in one container of a model.

    Attributes:
        kind (str): 'LGC' or 'SFR'.
        layers (list[LayerMap]): In the order of the model.
        sources (dict[str, int]): What computed the features that the layers
            read (LGC) or update (SFR), and its first channel: the network's
            stem, or whatever the dense connectivity begins with, called
            'input'; then the labels of the layers, those of earlier blocks
            first. Only 'input' if the container is not a dense block.
    """

    kind: str
    layers: List[LayerMap]
    sources: Dict[str, int]


@torch.no_grad()
def connection_strength(layer: Union[SparseConv2d, CondensedConv2d]) -> Tensor:
    """Mean absolute weight between each group and each channel.

    Args:
        layer (SparseConv2d | CondensedConv2d): Sparsified as far as it is, or
            condensed.

    Returns:
        Tensor: Shape (groups, columns). For LGC, rows are filter groups and
        columns input feature maps; for SFR, rows are input groups and columns
        the feature maps that they update. NaN where it is pruned.
    """
    matrix, mask = layer.matrix_and_mask()
    members = matrix.reshape(-1, *mask.shape)
    return members.abs().mean(0).masked_fill(~mask, float('nan'))


def dense_chains(blocks: List[BlockMap]) -> List[List[BlockMap]]:
    """Put the blocks together whose layers read or update the same sources.

    Args:
        blocks (list[BlockMap]): Of one model.

    Returns:
        list[list[BlockMap]]: All of CondenseNet's LGCs are one chain, as its
        features pass from block to block; in a DenseNet the transitions mix
        them, so each block is a chain of its own.
    """
    chains: List[List[BlockMap]] = []
    for block in blocks:
        last = chains[-1][-1] if chains else None
        if last and last.kind == block.kind and last.layers[-1].label in block.sources:
            chains[-1].append(block)
        else:
            chains.append([block])
    return chains


def source_strength(chain: Sequence[BlockMap]) -> Tensor:
    """Mean absolute weight between each layer and each source of a chain.

    It is the L1 norm of the connection by its number of weights, pruned ones
    included: a source is weak if it is read weakly or if few of its channels
    are read at all.

    Args:
        chain (Sequence[BlockMap]): One of :func:`dense_chains`.

    Returns:
        Tensor: Shape (layers, sources). NaN where the source comes after the
        layer, 0 where the connection is pruned entirely.
    """
    layers = [layer for block in chain for layer in block.layers]
    # The last block's sources are those of the ones before and more.
    starts = list(chain[-1].sources.values())
    result = torch.full((len(layers), len(starts)), float('nan'))
    for row, layer in zip(result, layers):
        # All groups have as many weights, so the mean over them is the mean
        # over all weights.
        channels = layer.strength.nan_to_num(0).mean(0)
        ends = [*starts[1:], len(channels)]
        for i, (start, end) in enumerate(zip(starts, ends)):
            if start < len(channels):
                row[i] = channels[start:end].mean()
    return result


def block_maps(model: nn.Module) -> List[BlockMap]:
    """Find the LGCs and SFRs of a model and their blocks.

    The layers in one list of modules make up a block. It is a dense block if
    each layer works on the channels of the layer before and on those that it
    added; if its first layer does so too, it continues the block before. The
    maps assume that new channels come after the old ones, and that these keep
    their order from block to block.

    Args:
        model (nn.Module): Sparse or condensed.

    Returns:
        list[BlockMap]: First all blocks of LGCs, then all of SFRs.
    """
    blocks = []
    for kind, types in KINDS.items():
        layers = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, types)
        }
        containers = {name: _container(model, name) for name in layers}
        labels = _labels(containers)
        # What a layer behind all those so far would have as its sources, and
        # what it would work on.
        sources: Dict[str, int] = {}
        following: Set[int] = set()
        for container, group in groupby(layers, containers.get):
            names = list(group)
            columns = [layers[name].columns for name in names]
            after = [_columns_after(model, container, name) for name in names]
            is_dense = all(map(contains, after, columns[1:]))
            if not (is_dense and columns[0] in following):
                sources = {'input': 0}
            if is_dense:
                places = (labels[name] for name in names)
                sources = {**sources, **dict(zip(places, columns))}
            following = after[-1] if is_dense else set()
            maps = [
                LayerMap(name, labels[name], connection_strength(layers[name]))
                for name in names
            ]
            # What the last layer computes comes after all of them.
            known = {k: v for k, v in sources.items() if k != maps[-1].label}
            blocks.append(BlockMap(kind, maps, known))
    return blocks


def _labels(containers: Dict[str, Optional[str]]) -> Dict[str, str]:
    """Strip what the layers' names have in common in front and behind.

    A layer outside of all lists, such as a classifier, keeps its name and
    does not count.
    """
    labels = {name: name for name in containers}
    parts = {
        name: name.split('.')
        for name, container in containers.items()
        if container is not None
    }
    front = len(os.path.commonprefix(list(parts.values())))
    behind = len(os.path.commonprefix([part[::-1] for part in parts.values()]))
    for name, part in parts.items():
        labels[name] = '.'.join(part[front : len(part) - behind]) or name
    return labels


def _container(model: nn.Module, name: str) -> Optional[str]:
    """Name of the nearest list of modules around a module, if there is one."""
    parts = name.split('.')
    for depth in reversed(range(len(parts))):
        container = '.'.join(parts[:depth])
        if isinstance(
            model.get_submodule(container),
            (nn.Sequential, nn.ModuleList, nn.ModuleDict),
        ):
            return container
    return None


def _columns_after(model: nn.Module, container: Optional[str], name: str) -> Set[int]:
    """Numbers of channels that there may be after a layer of a dense block.

    They are those that it works on and the new ones. These are SFR's inputs;
    for an LGC, they are as many as another convolution of its layer computes.
    """
    layer = model.get_submodule(name)
    if isinstance(layer, KINDS['SFR']):
        return {layer.columns + layer.in_channels}
    depth = len(container.split('.')) if container else 0
    child = model.get_submodule('.'.join(name.split('.')[: depth + 1]))
    kinds = (nn.Conv2d, CondensedConv2d)
    convs = (module for module in child.modules() if isinstance(module, kinds))
    return {layer.columns + conv.out_channels for conv in convs}
