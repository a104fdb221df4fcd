"""The condensed forms of LGC and SFR: an index and a group convolution."""

from typing import Dict, Optional, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.utils import _pair

from ..errors import InputError
from ..ops import library
from ..ops.kernel_arguments import replaces_forward
from ..registry import register_model
from .grouping import (
    FilterGroups,
    GroupedMatrix,
    InputGroups,
    channel_shuffle,
    check_index,
    checked_mask,
    compress,
    expand,
    kept_columns,
)


class CondensedConv2d(GroupedMatrix, _ConvNd):
    """Base of the condensed forms.

    This is not an ``nn.Conv2d``: the rows of its weight are not in output order,
    so code that rewrites the weights of ``nn.Conv2d``, such as mmcv's
    ``fuse_conv_bn``, would silently corrupt it.

    ``index`` is an int64 buffer of shape (groups * kept,) with the columns
    that each group keeps. A new layer distributes the columns evenly. It loads
    condensed checkpoints, and sparse ones whose sparsification is finished.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: Union[int, Tuple[int, int]],
        padding: Union[int, str, Tuple[int, int]],
        dilation: Union[int, Tuple[int, int]],
        groups: int,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size=(1, 1),
            stride=_pair(stride),
            padding=padding if isinstance(padding, str) else _pair(padding),
            dilation=_pair(dilation),
            transposed=False,
            output_padding=(0, 0),
            groups=groups,
            bias=False,
            padding_mode='zeros',
        )

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode; load the kernels before inference.

        Loading may compile them. This is the right moment: it delays neither
        the first inference nor the construction of the layer.
        """
        if not mode and self.weight.is_cpu:
            library.load()
        return super().train(mode)

    def __setstate__(self, state: Dict) -> None:
        super().__setstate__(state)
        self.train(self.training)

    def matrix_and_mask(self) -> Tuple[Tensor, Tensor]:
        entries = self.from_group_conv(self.weight, self.groups)
        return expand(entries, self.index.view(self.groups, -1), self.columns)

    def _conv_forward(self, *args, **kwargs) -> Tensor:
        """Reject mmcv's ``efficient_conv_bn_eval``, which folds in a norm."""
        raise InputError(
            f'No norm can be folded into {type(self).__name__}: leave '
            'efficient_conv_bn_eval off.'
        )

    def _add_bias(self, bias: bool, out_channels: int) -> None:
        # Added to the shuffled output, not by the group convolution.
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_channels))

    def _add_index(self, kept: int, columns: int) -> None:
        self.columns = columns
        self.register_buffer('index', torch.arange(self.groups * kept) % columns)

    def _load_from_state_dict(
        self, state_dict: Dict[str, Tensor], prefix: str, *args, **kwargs
    ) -> None:
        """Load the condensed form, or the sparse form once it is finished.

        Raises:
            InputError: If the index is invalid or the mask keeps too much.
        """
        mask = state_dict.get(prefix + 'mask')
        weight = state_dict.get(prefix + 'weight')
        if (
            mask is not None
            and weight is not None
            and mask.shape == (self.groups, self.columns)
            and weight.shape == self._sparse_shape()
        ):
            mask = checked_mask(mask, f'{prefix}mask')
            kept = self.index.numel() // self.groups
            if (mask.sum(1) > kept).any():
                raise InputError(
                    f'{prefix}mask keeps {mask.sum(1).tolist()} of {self.columns} '
                    f'channels in its groups, the condensed layer {kept}: finish the '
                    'sparsification before loading the checkpoint with deploy=True.'
                )
            entries, index = compress(self.to_matrix(weight), mask, kept)
            state_dict[prefix + 'weight'] = self.to_group_conv(entries)
            state_dict[prefix + 'index'] = index.flatten()
            del state_dict[prefix + 'mask']
        index = state_dict.get(prefix + 'index')
        # super() rejects other shapes.
        if index is not None and index.shape == self.index.shape:
            rows = index.view(self.groups, -1)
            check_index(rows, self.columns, f'{prefix}index')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _sparse_shape(self) -> torch.Size:
        rows = self.weight.numel() * self.groups // self.index.numel()
        matrix = torch.empty(rows, self.columns, device='meta')
        return self.from_matrix(matrix).shape


@register_model
class CondensedLGC(FilterGroups, CondensedConv2d):
    """Condensed learned group convolution (paper, Sec. 3).

    Gathers each group's inputs, runs a group convolution and shuffles the
    outputs into the interleaved order of the sparse form. Takes the arguments
    of :class:`LGC` and raises the same errors.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        condense_factor: Optional[int] = None,
    ) -> None:
        groups, factor = self.resolve(
            out_channels, in_channels, kernel_size, groups, condense_factor
        )
        kept = kept_columns(in_channels, factor)
        super().__init__(groups * kept, out_channels, stride, padding, dilation, groups)
        self._add_bias(bias, out_channels)
        self._add_index(kept, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H', W')."""
        x = nn.functional.conv2d(
            x.index_select(1, self.index),
            self.weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )
        out = channel_shuffle(x, self.groups)
        return out if self.bias is None else out + self.bias[:, None, None]


@register_model
class CondensedSFR(InputGroups, CondensedConv2d):
    """Condensed sparse feature reactivation (paper, Sec. 3).

    Each group of inputs updates the outputs listed in its index. Takes the
    arguments of :class:`SFR` and raises the same errors.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        sparse_factor: Optional[int] = None,
    ) -> None:
        groups, factor = self.resolve(
            in_channels, out_channels, kernel_size, groups, sparse_factor
        )
        kept = kept_columns(out_channels, factor)
        super().__init__(in_channels, groups * kept, stride, padding, dilation, groups)
        self._add_bias(bias, out_channels)
        self._add_index(kept, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H', W')."""
        # A dense convolution, zeros included: PyTorch has no fast way to sum
        # several updates of an output, index_add_ is not deterministic on CUDA,
        # and the TorchScript exporter to ONNX gets it wrong (docs/speed.md).
        weight = self.from_matrix(self.matrix_and_mask()[0])
        return nn.functional.conv2d(
            x, weight, self.bias, self.stride, self.padding, self.dilation
        )


replaces_forward(CondensedLGC, CondensedSFR)
