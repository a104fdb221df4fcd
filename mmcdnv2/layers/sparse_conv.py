"""LGC and SFR: convolutions that are sparsified during training."""

from typing import Dict, Optional, Tuple, Type, Union

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..registry import register_model
from .condensed_conv import CondensedConv2d, CondensedLGC, CondensedSFR
from .grouping import (
    FilterGroups,
    GroupedMatrix,
    InputGroups,
    check_index,
    checked_mask,
    compress,
    expand,
    kept_columns,
)


def stage_of(progress: float, factor: int, begin: float = 0.0, end: float = 0.5) -> int:
    """Return the pruning stage at a given training progress.

    The interval from ``begin`` to ``end`` has ``factor - 1`` stages of equal
    length; each stage ends with a pruning step. In the paper (Sec. 3) it is the
    first half of training; the second half trains the remaining weights.

    Args:
        progress (float): Completed fraction of training.
        factor (int): condense_factor (LGC) or sparse_factor (SFR).
        begin (float): Progress at which the first stage begins. Defaults to 0.
        end (float): Progress at the last pruning step, greater than ``begin``.
            Defaults to 0.5.

    Returns:
        int: The stage, from 0 (dense) to ``factor - 1`` (final).

    Raises:
        InputError: If ``progress`` is not in [0, 1].
    """
    if not 0 <= progress <= 1:
        raise InputError(f'progress must be in [0, 1], got {progress}.')
    # 1e-9: quotients such as 0.3 / 0.5 * 5 may fall just short of the integer.
    done = max(progress - begin, 0) / (end - begin)
    return min(int(done * (factor - 1) + 1e-9), factor - 1)


class SparseConv2d(GroupedMatrix, nn.Conv2d):
    """Base of LGC and SFR: a 1x1 convolution with a grouped mask.

    The weight keeps its dense shape (out_channels, in_channels, 1, 1), and
    ``groups`` is 1, because code that counts or rewrites convolutions must see
    a dense one. The only sparsification state is ``mask``, a bool buffer of shape
    (mask_groups, columns) that marks the columns each group keeps; the pruning
    stage and the kept counts derive from it.
    """

    condensed_type: Type[Union[CondensedLGC, CondensedSFR]]

    def _add_mask(self, groups: int, columns: int, factor: int) -> None:
        self.factor = factor
        self.register_buffer('mask', torch.ones(groups, columns, dtype=torch.bool))

    @property
    def mask_groups(self) -> int:
        """int: Number of filter groups (LGC) or input groups (SFR)."""
        return self.mask.size(0)

    @property
    def columns(self) -> int:
        """int: Number of channels per group before pruning."""
        return self.mask.size(1)

    @property
    def members(self) -> int:
        """int: Number of rows (filters or inputs) per group."""
        return self.weight.numel() // self.mask.numel()

    @property
    def kept(self) -> int:
        """int: Number of channels that the fullest group keeps now."""
        return int(self.mask.sum(1).max())

    @property
    def final_kept(self) -> int:
        """int: Number of channels that each group keeps after the last stage."""
        return kept_columns(self.columns, self.factor)

    @property
    def is_finished(self) -> bool:
        """bool: Whether no group keeps more than its final count."""
        return self.kept <= self.final_kept

    @property
    def stage(self) -> int:
        """int: The last pruning stage that the mask has reached."""
        kept = self.kept
        return max(
            stage
            for stage in range(self.factor)
            if kept <= kept_columns(self.columns, self.factor, stage)
        )

    def matrix_and_mask(self) -> Tuple[Tensor, Tensor]:
        return self.to_matrix(self.weight), self.mask

    def masked_weight(self) -> Tensor:
        """Return the weight with pruned entries set to zero, in its dense shape."""
        return self._masked(self.weight)

    @torch.no_grad()
    def zero_pruned(self, tensor: Tensor) -> None:
        """Set the pruned entries of a weight or optimizer state to zero.

        Args:
            tensor (Tensor): Changed in place; same shape as the weight. Pruned
                entries become zero even where they are NaN or infinite.
        """
        matrix = self.to_matrix(tensor)
        members = matrix.reshape(-1, *self.mask.shape)
        zeroed = members.masked_fill(~self.mask, 0)
        tensor.copy_(self.from_matrix(zeroed.flatten(0, 1)))

    def _masked(self, weight: Tensor) -> Tensor:
        matrix = self.to_matrix(weight)
        # The mask broadcasts over a group's rows. Multiplying floats is vectorised
        # and faster than multiplying by a bool.
        members = matrix.reshape(-1, *self.mask.shape)
        masked = members * self.mask.to(matrix.dtype)
        return self.from_matrix(masked.flatten(0, 1))

    def _conv_forward(
        self, x: Tensor, weight: Tensor, bias: Optional[Tensor]
    ) -> Tensor:
        # Not in forward(): mmcv's efficient_conv_bn_eval passes a weight with the
        # norm folded in.
        return super()._conv_forward(x, self._masked(weight), bias)

    def _group_norms(self, order: int) -> Tensor:
        """Return the norm of each (group, column) pair's weights; mask's shape."""
        matrix = self.to_matrix(self.weight)
        members = matrix.reshape(-1, *self.mask.shape)
        return torch.linalg.vector_norm(members, ord=order, dim=0)

    def group_lasso(self) -> Tensor:
        """Return the group-lasso term (CondenseNet, Sec. 3).

        Returns:
            Tensor: Scalar, the sum over all kept (group, column) pairs of
            the L2 norm of the pair's weights.
        """
        return self._group_norms(2)[self.mask].sum()

    def set_progress(self, progress: float) -> bool:
        """Prune to the channel count of the stage at ``progress``.

        Args:
            progress (float): Completed fraction of training.

        Returns:
            bool: Whether the mask changed.

        Raises:
            InputError: If ``progress`` is not in [0, 1].
        """
        return self.set_stage(stage_of(progress, self.factor))

    @torch.no_grad()
    def set_stage(self, stage: int) -> bool:
        """Prune to the channel count of a stage.

        Each group loses the columns of smallest L1 norm, also if stages were
        skipped. Pruned columns never return: an earlier stage than before changes
        nothing, and a group that already keeps fewer is left as it is.

        Args:
            stage (int): From 0 (dense) to ``factor - 1`` (final).

        Returns:
            bool: Whether the mask changed.

        Raises:
            InputError: If the stage is out of range.
        """
        if not 0 <= stage < self.factor:
            raise InputError(
                f'stage of {type(self).__name__} must be in [0, {self.factor - 1}], '
                f'got {stage}.'
            )
        kept = kept_columns(self.columns, self.factor, stage)
        if self.kept <= kept:
            return False
        norms = self._group_norms(1).masked_fill(~self.mask, -1)
        # Stable, so that ties are broken alike on all devices.
        order = norms.sort(dim=1, descending=True, stable=True).indices
        self.mask.scatter_(1, order[:, kept:], False)
        return True

    @torch.no_grad()
    def condense(self) -> CondensedConv2d:
        """Return the condensed form, which computes the same output.

        All its groups have ``final_kept`` columns; groups that keep fewer are
        padded with zeros.

        Returns:
            CondensedConv2d: A layer on the same device, of the same dtype.

        Raises:
            InputError: If the sparsification is unfinished.
        """
        if not self.is_finished:
            raise InputError(
                f'{type(self).__name__} keeps {self.kept} of {self.columns} '
                f'channels per group and must come down to {self.final_kept} '
                'before it can be condensed: finish the sparsification, or call '
                'set_progress(1) and fine-tune.'
            )
        condensed = self.condensed_type(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.mask_groups,
            self.bias is not None,
            self.factor,
        )
        entries, index = compress(*self.matrix_and_mask(), self.final_kept)
        condensed.to(self.weight).train(self.training)
        condensed.weight.copy_(self.to_group_conv(entries))
        condensed.index.copy_(index.flatten())
        if self.bias is not None:
            condensed.bias.copy_(self.bias)
        return condensed

    def _load_from_state_dict(
        self, state_dict: Dict[str, Tensor], prefix: str, *args, **kwargs
    ) -> None:
        """Load the sparse or the condensed form; pruned weights become zeros."""
        index = state_dict.get(prefix + 'index')
        weight = state_dict.get(prefix + 'weight')
        if (
            index is not None
            and weight is not None
            and weight.shape == self._condensed_shape()
        ):
            groups = self.mask_groups
            entries = self.from_group_conv(weight, groups)
            shape = (groups * self.final_kept,)
            if index.shape != shape:
                raise InputError(
                    f'{prefix}index has shape {tuple(index.shape)}, expected {shape}: '
                    'the checkpoint belongs to another network.'
                )
            index = index.view(groups, -1)
            check_index(index, self.columns, f'{prefix}index')
            matrix, mask = expand(entries, index.long(), self.columns)
            state_dict[prefix + 'weight'] = self.from_matrix(matrix)
            state_dict[prefix + 'mask'] = mask
            del state_dict[prefix + 'index']
        mask = state_dict.get(prefix + 'mask')
        # super() rejects other shapes.
        if mask is not None and mask.shape == self.mask.shape:
            state_dict[prefix + 'mask'] = checked_mask(mask, f'{prefix}mask')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _condensed_shape(self) -> torch.Size:
        entries = torch.empty(
            self.mask_groups, self.members, self.final_kept, device='meta'
        )
        return self.to_group_conv(entries).shape

    def extra_repr(self) -> str:
        """Show the groups, the factor and the kept channels."""
        return (
            f'{super().extra_repr()}, mask_groups={self.mask_groups}, '
            f'{self.factor_name}={self.factor}, kept={self.kept}/{self.columns}'
        )


@register_model
class LGC(FilterGroups, SparseConv2d):
    """Learned group convolution (paper, Sec. 3; CondenseNet, Sec. 3).

    Output channel ``o`` belongs to filter group ``o % groups``. The filters of a
    group share their inputs; each stage prunes the inputs whose weights have the
    smallest L1 norm over the group.

    Args:
        in_channels (int): Number of input channels, C.
        out_channels (int): Number of output channels.
        kernel_size (int | tuple[int]): Must be 1. Defaults to 1.
        stride (int | tuple[int]): Defaults to 1.
        padding (int | tuple[int]): Defaults to 0.
        dilation (int | tuple[int]): Defaults to 1.
        groups (int): Number of filter groups. Defaults to 1.
        bias (bool): Whether to add a bias. Defaults to True.
        condense_factor (int, optional): Each group ends with
            C / condense_factor inputs, rounded up. Defaults to ``groups``.

    Raises:
        InputError: If the kernel is not 1x1, the factor is not in
            [1, in_channels] or out_channels is not divisible by ``groups``.

    Examples:
        >>> conv = LGC(32, 64, groups=4, condense_factor=4, bias=False)
        >>> conv.set_progress(1), conv.kept
        (True, 8)
    """

    condensed_type = CondensedLGC

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
        super().__init__(
            in_channels, out_channels, 1, stride, padding, dilation, bias=bias
        )
        self._add_mask(groups, in_channels, factor)


@register_model
class SFR(InputGroups, SparseConv2d):
    """Sparse feature reactivation (paper, Sec. 3).

    Input channel ``i`` belongs to input group ``i % groups``. The inputs of a
    group update the same outputs; each stage prunes the outputs whose weights have
    the smallest L1 norm over the group.

    Args:
        in_channels (int): Number of input channels, k.
        out_channels (int): Number of output channels, C.
        kernel_size (int | tuple[int]): Must be 1. Defaults to 1.
        stride (int | tuple[int]): Defaults to 1.
        padding (int | tuple[int]): Defaults to 0.
        dilation (int | tuple[int]): Defaults to 1.
        groups (int): Number of input groups, reduced to the next divisor of
            in_channels. Defaults to 1.
        bias (bool): Whether to add a bias. Defaults to True.
        sparse_factor (int, optional): Each group ends with
            C / sparse_factor outputs, rounded up. Defaults to ``groups``.

    Raises:
        InputError: If the kernel is not 1x1 or the factor is not in
            [1, out_channels].

    Examples:
        >>> conv = SFR(16, 58, groups=8, sparse_factor=8, bias=False)
        >>> conv.set_progress(1), conv.kept
        (True, 8)
    """

    condensed_type = CondensedSFR

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
        super().__init__(
            in_channels, out_channels, 1, stride, padding, dilation, bias=bias
        )
        self._add_mask(groups, out_channels, factor)


def sparse_layers(module: nn.Module) -> Dict[str, SparseConv2d]:
    """Return the sparse convolutions of a module.

    Args:
        module (nn.Module): Any module.

    Returns:
        dict[str, SparseConv2d]: The layers by name.
    """
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, SparseConv2d)
    }


def unfinished_layers(module: nn.Module) -> Dict[str, str]:
    """Return the sparse convolutions whose sparsification is unfinished.

    Args:
        module (nn.Module): Any module.

    Returns:
        dict[str, str]: The progress of each layer, as a phrase, by layer name.
    """
    return {
        name: f'keeps {layer.kept} of {layer.columns} channels per group, '
        f'must come down to {layer.final_kept}'
        for name, layer in sparse_layers(module).items()
        if not layer.is_finished
    }


def kept_fraction(module: nn.Module) -> float:
    """Return the fraction of the sparse convolutions' weights that is kept.

    Args:
        module (nn.Module): Any module.

    Returns:
        float: The fraction; 1 if dense or without sparse convolutions.
    """
    layers = sparse_layers(module).values()
    total = sum(layer.weight.numel() for layer in layers)
    kept = sum(layer.members * int(layer.mask.sum()) for layer in layers)
    return kept / total if total else 1.0


def condense_layers(module: nn.Module) -> None:
    """Replace every sparse convolution in a module with its condensed form.

    Shared layers stay shared.

    Args:
        module (nn.Module): Changed in place.

    Raises:
        InputError: If a layer's sparsification is unfinished, or the module is
            itself a sparse convolution; the module is then unchanged.
    """
    if isinstance(module, SparseConv2d):
        raise InputError(
            f'{type(module).__name__} cannot replace itself in place: use the layer '
            'that its condense() returns.'
        )
    condensed = {layer: layer.condense() for layer in sparse_layers(module).values()}
    # A shared layer has several names.
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if layer in condensed:
            parent, _, attribute = name.rpartition('.')
            setattr(module.get_submodule(parent), attribute, condensed[layer])
