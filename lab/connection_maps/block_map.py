"""The connections of sparse layers and their strengths (paper, Figs. 6 and 7)."""

import os
from dataclasses import dataclass
from itertools import groupby
from operator import contains
from typing import Dict, List, Optional, Sequence, Set, Union

import torch
from torch import Tensor, nn

from mmcdnv2.layers import LGC, SFR, CondensedConv2d, SparseConv2d

# Sparse and condensed classes of each kind of layer.
KINDS = {kind.__name__: (kind, kind.condensed_type) for kind in (LGC, SFR)}


@dataclass(frozen=True)
class LayerMap:
    """The connections of one LGC or SFR.

    Attributes:
        name (str): Name of the layer in its model.
        label (str): Short name, unique among the model's layers of its kind,
            such as '2.3' for ``backbone.blocks.2.3.lgc.conv``.
        strength (Tensor): Its :func:`connection_strength`, shape (groups,
            columns).
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
        sources (dict[str, int]): First channels of the sources whose features
            the layers read (LGC) or update (SFR): 'input', which is the stem or
            whatever precedes the dense connectivity, then layers by label,
            those of earlier blocks first. Only 'input' if the container is not
            a dense block.
    """

    kind: str
    layers: List[LayerMap]
    sources: Dict[str, int]


@torch.no_grad()
def connection_strength(layer: Union[SparseConv2d, CondensedConv2d]) -> Tensor:
    """Return the mean absolute weight between each group and each channel.

    Args:
        layer (SparseConv2d | CondensedConv2d): Sparse at any stage, or condensed.

    Returns:
        Tensor: Shape (groups, columns). For LGC, rows are filter groups and
        columns input feature maps; for SFR, rows are input groups and columns
        updated feature maps. NaN for pruned connections.
    """
    matrix, mask = layer.matrix_and_mask()
    members = matrix.reshape(-1, *mask.shape)
    return members.abs().mean(0).masked_fill(~mask, float('nan'))


def dense_chains(blocks: List[BlockMap]) -> List[List[BlockMap]]:
    """Group consecutive blocks whose layers read or update the same sources.

    Args:
        blocks (list[BlockMap]): Blocks of one model.

    Returns:
        list[list[BlockMap]]: The chains. All of CondenseNet's LGCs form one
        chain, because its features pass from block to block; in a DenseNet the
        transitions mix features, so each block is a separate chain.
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
    """Return the mean absolute weight between each layer and source of a chain.

    This is the L1 norm of the connection divided by its number of weights,
    including pruned ones: a source is weak if its weights are small or if few of
    its channels are read.

    Args:
        chain (Sequence[BlockMap]): One of :func:`dense_chains`.

    Returns:
        Tensor: Shape (layers, sources). NaN if the source comes after the layer,
        0 if the connection is pruned entirely.
    """
    layers = [layer for block in chain for layer in block.layers]
    # The last block's sources include those of the blocks before.
    starts = list(chain[-1].sources.values())
    result = torch.full((len(layers), len(starts)), float('nan'))
    for row, layer in zip(result, layers):
        # Groups have equal numbers of weights, so the mean over groups is the mean
        # over weights.
        channels = layer.strength.nan_to_num(0).mean(0)
        ends = [*starts[1:], len(channels)]
        for i, (start, end) in enumerate(zip(starts, ends)):
            if start < len(channels):
                row[i] = channels[start:end].mean()
    return result


def block_maps(model: nn.Module) -> List[BlockMap]:
    """Return the blocks of a model's LGCs and SFRs.

    The layers in one module list form a block. It is a dense block if each layer
    has the channels of the previous layer plus those that the previous layer
    added; if this also holds for its first layer, it continues the previous block.
    New channels are assumed to follow the old ones, and old ones to keep their
    order from block to block.

    Args:
        model (nn.Module): Sparse or condensed.

    Returns:
        list[BlockMap]: First the blocks of LGCs, then those of SFRs.
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
        # Sources, and possible numbers of channels, of a next layer in the chain.
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
            # The last layer's features are no source for this block.
            known = {k: v for k, v in sources.items() if k != maps[-1].label}
            blocks.append(BlockMap(kind, maps, known))
    return blocks


def _labels(containers: Dict[str, Optional[str]]) -> Dict[str, str]:
    """Strip the common prefix and suffix of the layers' names.

    A layer outside all module lists, such as a classifier, keeps its name and is
    ignored for the prefix and suffix.
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
    """Return the name of the innermost module list around a module, if any."""
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
    """Return the possible numbers of channels after a layer of a dense block.

    This is the layer's number of columns plus the new channels: the inputs of an
    SFR, or for an LGC the outputs of another convolution in its dense layer.
    """
    layer = model.get_submodule(name)
    if isinstance(layer, KINDS['SFR']):
        return {layer.columns + layer.in_channels}
    depth = len(container.split('.')) if container else 0
    child = model.get_submodule('.'.join(name.split('.')[: depth + 1]))
    kinds = (nn.Conv2d, CondensedConv2d)
    convs = (module for module in child.modules() if isinstance(module, kinds))
    return {layer.columns + conv.out_channels for conv in convs}
