"""What the sparse layers connect, and how strongly (paper, Figs. 6 and 7)."""

import os
from dataclasses import dataclass
from itertools import groupby
from typing import List, Union

import torch
from torch import Tensor, nn

from ..layers import (
    LGC,
    SFR,
    CondensedConv2d,
    CondensedLGC,
    CondensedSFR,
    SparseConv2d,
)

# Sparse and condensed form of each kind of layer.
KINDS = {'LGC': (LGC, CondensedLGC), 'SFR': (SFR, CondensedSFR)}


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
        starts (list[int]): First channel of each source of the features that
            the layers read (LGC) or update (SFR). The first source is the
            block's input. If the container is a dense block, its layers but
            for the last one follow.
    """

    kind: str
    layers: List[LayerMap]
    starts: List[int]

    @property
    def sources(self) -> List[str]:
        """list[str]: Names of the sources."""
        return ['input', *(layer.label for layer in self.layers)][: len(self.starts)]


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


def source_strength(block: BlockMap) -> Tensor:
    """Mean absolute weight between each layer and each source of a block.

    It is the L1 norm of the connection by its number of weights, pruned ones
    included: a source is weak if it is read weakly or if few of its channels
    are read at all.

    Args:
        block (BlockMap): The block.

    Returns:
        Tensor: Shape (layers, sources). NaN where the source comes after the
        layer, 0 where the connection is pruned entirely.
    """
    result = torch.full((len(block.layers), len(block.starts)), float('nan'))
    for row, layer in zip(result, block.layers):
        # All groups have as many weights, so the mean over them is the mean
        # over all weights.
        channels = layer.strength.nan_to_num(0).mean(0)
        ends = [*block.starts[1:], len(channels)]
        for i, (start, end) in enumerate(zip(block.starts, ends)):
            if start < len(channels):
                row[i] = channels[start:end].mean()
    return result


def block_maps(model: nn.Module) -> List[BlockMap]:
    """Find the LGCs and SFRs of a model and the blocks that they stand in.

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
        labels = dict(zip(layers, _labels(list(layers))))
        for container, names in groupby(layers, lambda name: _container(model, name)):
            names = list(names)
            blocks.append(
                BlockMap(
                    kind,
                    [
                        LayerMap(name, labels[name], connection_strength(layers[name]))
                        for name in names
                    ],
                    _source_starts(model, container, names),
                )
            )
    return blocks


def _labels(names: List[str]) -> List[str]:
    """Strip what the dotted names have in common in front and behind."""
    parts = [name.split('.') for name in names]
    front = len(os.path.commonprefix(parts))
    behind = len(os.path.commonprefix([part[::-1] for part in parts]))
    return [
        '.'.join(part[front : len(part) - behind]) or name
        for part, name in zip(parts, names)
    ]


def _container(model: nn.Module, name: str) -> str:
    """Name of the nearest list of modules around a module."""
    parents = name.split('.')[:-1]
    while parents and not isinstance(
        model.get_submodule('.'.join(parents)),
        (nn.Sequential, nn.ModuleList, nn.ModuleDict),
    ):
        parents.pop()
    return '.'.join(parents)


def _source_starts(model: nn.Module, container: str, names: List[str]) -> List[int]:
    """First channel of each source, if the container is a dense block.

    It is one if each layer works on more channels than the one before, and the
    module around that one has a convolution that computes just as many. New
    channels are taken to stand behind the old ones.
    """
    columns = [model.get_submodule(name).columns for name in names]
    depth = len(container.split('.')) if container else 0
    for name, before, after in zip(names, columns, columns[1:]):
        child = model.get_submodule('.'.join(name.split('.')[: depth + 1]))
        computed = {m.out_channels for m in child.modules() if isinstance(m, nn.Conv2d)}
        if after - before not in computed:
            return [0]
    return [0, *columns[:-1]]
