"""Condensed networks in the form that engines of standard operators run fastest.

A condensed layer does the least arithmetic, but an engine has fast code only for
convolutions of some shapes: of one group, depthwise, and of groups that fill a
vector. So the layers are written as these, with zeros in their weights where need
be. docs/speed.md tells what was measured.
"""

import copy
from collections import OrderedDict
from typing import Optional, Tuple, Union

import torch
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from ..backbones.dense_block import DenseLayer
from ..layers import CondensedConv2d, CondensedLGC, CondensedSFR, channel_shuffle

# An LGC of at most so many outputs is one dense convolution: products with zeros
# take less time than copies of what each group reads.
_DENSE_LGC_OUTPUTS = 64
# A group convolution with at most so many outputs in a group is as many depthwise
# ones; with fewer than a vector of floats, its groups are merged.
_DEPTHWISE_OUTPUTS = 2
_VECTOR = 16


@torch.no_grad()
def to_standard_form(model: nn.Module, gather: bool = True) -> nn.Module:
    """Copy a condensed model and write its condensed layers as fast convolutions.

    ``nn.Conv2d``, ``index_select`` and channel shuffles take their places, which
    exporters and engines know. A norm between an LGC and the group convolution
    behind it is folded into the LGC.

    Args:
        model (nn.Module): A model with condensed layers anywhere in it. It is left
            as it is.
        gather (bool): Whether the engine can copy channels by an index. ncnn
            cannot; all LGCs are dense convolutions then. Defaults to True.

    Returns:
        nn.Module: A model that gives the same output up to rounding, in evaluation
        mode and for inference only.
    """
    model = _rewritten(copy.deepcopy(model), gather)
    # By itself, as that of many of OpenMMLab's networks returns nothing.
    model.eval()
    return model.requires_grad_(False)


def _rewritten(module: nn.Module, gather: bool) -> nn.Module:
    """Return what takes a module's place: itself, changed inside, or another one."""
    if isinstance(module, CondensedSFR):
        weight = module.from_matrix(module.matrix_and_mask()[0])
        return _conv(module, weight, module.bias)
    if isinstance(module, CondensedLGC):
        lgc, order = _lgc(module, None, gather)
        return lgc if order is None else nn.Sequential(lgc, Shuffle(module.groups))
    if type(module) is DenseLayer and _is_foldable(module):
        return StandardDenseLayer(module, gather)
    for name, child in list(module.named_children()):
        rewritten = _rewritten(child, gather)
        if rewritten is not child:
            setattr(module, name, rewritten)
    return module


class Select(nn.Module):
    """Copy channels.

    Args:
        index (Tensor): Which ones, int64, in the order of the output.
    """

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer('index', index)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, len(index), H, W)."""
        return x.index_select(1, self.index)


class Shuffle(nn.Module):
    """Interleave the channels of groups.

    Args:
        groups (int): Number of groups.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return channel_shuffle(x, self.groups)


class DepthwiseSum(nn.Module):
    """A group convolution of few outputs per group, as depthwise convolutions.

    The first of them computes what each input adds to the first output of its
    group, and so on; 1x1 convolutions with ones add these up. Depthwise
    convolutions take any order of the channels, so no shuffle comes before.

    Args:
        conv (nn.Conv2d): The group convolution.
        order (Tensor): For each channel that is given here, the input of ``conv``
            that it is.
    """

    def __init__(self, conv: nn.Conv2d, order: Tensor) -> None:
        super().__init__()
        dense = _merge_groups(conv.weight, conv.groups, conv.groups)[:, order]
        inputs, outputs = conv.weight.size(1), conv.out_channels // conv.groups
        # Ones where a group reads a channel, shape (groups, channels).
        reads = torch.eye(conv.groups, device=order.device, dtype=dense.dtype)
        reads = reads.repeat_interleave(inputs, 1)[:, order]
        self.depthwise, self.sums = nn.ModuleList(), nn.ModuleList()
        for rank in range(outputs):
            # Of an input's weights, those of all groups but one are zeros.
            weight = dense[rank::outputs].sum(0).unsqueeze(1)
            self.depthwise.append(_conv(conv, weight, groups=len(order)))
            ones = reads.new_zeros(conv.out_channels, len(order))
            ones[rank::outputs] = reads
            bias = None if rank else conv.bias
            self.sums.append(_conv(None, ones[:, :, None, None], bias))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H', W')."""
        first, *others = (
            add_up(depthwise(x)) for depthwise, add_up in zip(self.depthwise, self.sums)
        )
        for other in others:
            first = first + other
        return first


class StandardDenseLayer(nn.Module):
    """A condensed dense layer, the norm between its convolutions folded.

    Args:
        layer (DenseLayer): Condensed; its parts are used.
        gather (bool): See :func:`to_standard_form`.
    """

    def __init__(self, layer: DenseLayer, gather: bool) -> None:
        super().__init__()
        lgc, order = _lgc(layer.lgc.conv, layer.conv.norm, gather)
        self.new_features = nn.Sequential(
            OrderedDict(
                norm=layer.lgc.norm,
                act=layer.lgc.activate,
                lgc=lgc,
                act2=layer.conv.activate,
                conv=_group_conv(layer.conv.conv, layer.lgc.conv.groups, order),
                se=layer.se,
            )
        )
        self.sfr = None if layer.sfr is None else _rewritten(layer.sfr, gather)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + k, H, W)."""
        new = self.new_features(x)
        return torch.cat([x if self.sfr is None else self.sfr(x, new), new], dim=1)


def _is_foldable(layer: DenseLayer) -> bool:
    """Whether a layer is condensed, with a batch norm between its convolutions."""
    norm = layer.conv.norm
    return (
        isinstance(layer.lgc.conv, CondensedLGC)
        and type(layer.conv.conv) is nn.Conv2d
        and isinstance(norm, _BatchNorm)
        and norm.running_var is not None
    )


def _lgc(
    conv: CondensedLGC, norm: Optional[nn.Module], gather: bool
) -> Tuple[nn.Module, Optional[Tensor]]:
    """Write an LGC as a dense convolution, or as a group convolution of copies.

    Args:
        conv (CondensedLGC): The layer.
        norm (nn.Module, optional): The batch norm behind it, which is folded.
        gather (bool): Whether inputs may be copied.

    Returns:
        tuple[nn.Module, Tensor | None]: The convolution, and which of the layer's
        outputs each of its outputs is; None if they are in the layer's order.
    """
    outputs, groups = conv.out_channels, conv.groups
    matrix, bias = conv.matrix_and_mask()[0], conv.bias
    if norm is not None:
        scale, shift = _scale_and_shift(norm, conv.weight)
        matrix = matrix * scale[:, None]
        bias = shift if bias is None else bias * scale + shift
    if outputs <= _DENSE_LGC_OUTPUTS or not gather:
        return _conv(conv, conv.from_matrix(matrix), bias), None
    order = torch.arange(outputs, device=matrix.device)
    order = order.view(-1, groups).t().flatten()
    index = conv.index.view(groups, 1, -1).expand(-1, outputs // groups, -1)
    weight = matrix[order].gather(1, index.flatten(0, 1))[:, :, None, None]
    bias = None if bias is None else bias[order]
    lgc = nn.Sequential(Select(conv.index), _conv(conv, weight, bias, groups))
    return lgc, None if groups == 1 else order


def _group_conv(
    conv: nn.Conv2d, shuffled_groups: int, order: Optional[Tensor]
) -> nn.Module:
    """Write the convolution behind an LGC by the shapes that are fast.

    Args:
        conv (nn.Conv2d): The convolution, of any number of groups.
        shuffled_groups (int): Groups of the LGC.
        order (Tensor, optional): For each channel that is given, the input of
            ``conv`` that it is. None if they are in order.

    Returns:
        nn.Module: What gives the convolution's outputs in its order.
    """
    groups, outputs = conv.groups, conv.out_channels // conv.groups
    if groups > 1 and outputs <= _DEPTHWISE_OUTPUTS:
        natural = torch.arange(conv.in_channels, device=conv.weight.device)
        return DepthwiseSum(conv, natural if order is None else order)
    factor = groups if outputs < _VECTOR else 1
    for divisor in range(1, groups):
        if groups % divisor == 0 and outputs * divisor % _VECTOR == 0:
            factor = min(factor, divisor)
    weight = _merge_groups(conv.weight, groups, factor)
    if order is None:
        return _conv(conv, weight, conv.bias, groups // factor)
    if factor == groups:
        return _conv(conv, weight[:, order], conv.bias)
    merged = _conv(conv, weight, conv.bias, groups // factor)
    return nn.Sequential(Shuffle(shuffled_groups), merged)


def _merge_groups(weight: Tensor, groups: int, factor: int) -> Tensor:
    """Merge each ``factor`` groups of a group convolution into one.

    Args:
        weight (Tensor): Shape (out, in / groups, kernel height, kernel width).
        groups (int): Number of groups.
        factor (int): Divides it.

    Returns:
        Tensor: Shape (out, factor * in / groups, kernel height, kernel width),
        zeros where a group did not read.
    """
    parts = weight.unflatten(0, (groups // factor, factor, -1))
    merged = parts.new_zeros(*parts.shape[:3], factor, *parts.shape[3:])
    for member in range(factor):
        merged[:, member, :, member] = parts[:, member]
    return merged.flatten(3, 4).flatten(0, 2)


def _scale_and_shift(norm: nn.Module, like: Tensor) -> Tuple[Tensor, Tensor]:
    """Return a batch norm in evaluation as a factor and a summand per channel."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale.to(like), shift.to(like)


def _conv(
    like: Union[nn.Conv2d, CondensedConv2d, None],
    weight: Tensor,
    bias: Optional[Tensor] = None,
    groups: int = 1,
) -> nn.Conv2d:
    """Make a convolution of a weight, with stride and padding of another one."""
    outputs, inputs, *kernel_size = weight.shape
    sizes = {}
    if like is not None:
        sizes = dict(stride=like.stride, padding=like.padding, dilation=like.dilation)
        sizes['padding_mode'] = like.padding_mode
    conv = nn.Conv2d(
        groups * inputs,
        outputs,
        tuple(kernel_size),
        groups=groups,
        bias=bias is not None,
        **sizes,
    )
    conv.weight = nn.Parameter(weight.detach().clone().contiguous())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv
