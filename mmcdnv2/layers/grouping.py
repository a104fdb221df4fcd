"""The matrix view of weights that LGC, SFR and their condensed forms share.

The rows form interleaved groups: row ``r`` belongs to group ``r % groups``, and
the rows of a group keep the same columns. For LGC the rows are filters and the
columns inputs; for SFR the rows are inputs and the columns outputs. SFR is LGC
on the transposed weight.
"""

from typing import Optional, Tuple, Union

import torch
from torch import Tensor

from ..errors import InputError


def kept_columns(columns: int, factor: int, stage: Optional[int] = None) -> int:
    """Return the number of columns that a group keeps at a pruning stage.

    Args:
        columns (int): Number of columns before pruning.
        factor (int): condense_factor (LGC) or sparse_factor (SFR).
        stage (int, optional): Stage from 0 to ``factor - 1``. Defaults to
            the last stage.

    Returns:
        int: ``columns * (factor - stage) / factor``, rounded up.
    """
    if stage is None:
        stage = factor - 1
    return -(-columns * (factor - stage) // factor)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of groups.

    Args:
        x (Tensor): Shape (N, C, H, W), the channels ordered by group.
        groups (int): Number of groups; divides C.

    Returns:
        Tensor: Same shape; channel o belongs to group ``o % groups``.
    """
    # torch.nn.functional.channel_shuffle has no derivative in torch 2.1.
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def compress(matrix: Tensor, mask: Tensor, kept: int) -> Tuple[Tensor, Tensor]:
    """Gather the kept entries of a masked matrix.

    Args:
        matrix (Tensor): Shape (members * groups, columns), rows interleaved.
        mask (Tensor): Bool, shape (groups, columns).
        kept (int): Number of columns to gather per group. Groups that keep
            fewer are padded with pruned columns, set to zero.

    Returns:
        tuple[Tensor, Tensor]: The kept entries, shape (groups, members,
        kept), and their columns, ascending, shape (groups, kept).
    """
    groups, columns = mask.shape
    kept_first = mask.int().sort(dim=1, descending=True, stable=True).indices
    index = kept_first[:, :kept].sort(dim=1).values
    members = matrix.reshape(-1, groups, columns).masked_fill(~mask, 0).transpose(0, 1)
    gather = index.unsqueeze(1).expand(-1, members.size(1), -1)
    return members.gather(2, gather), index


def expand(entries: Tensor, index: Tensor, columns: int) -> Tuple[Tensor, Tensor]:
    """Invert :func:`compress`; pruned entries become zeros.

    Args:
        entries (Tensor): Shape (groups, members, kept).
        index (Tensor): Shape (groups, kept).
        columns (int): Number of columns of the matrix.

    Returns:
        tuple[Tensor, Tensor]: The matrix, shape (members * groups, columns),
        and the bool mask, shape (groups, columns).
    """
    groups, members = index.size(0), entries.size(1)
    places = index.unsqueeze(1).expand_as(entries)
    # A statement of its own would be dead code to torch.fx, which drops it.
    matrix = entries.new_zeros(groups, members, columns).scatter_(2, places, entries)
    mask = index.new_zeros(groups, columns).scatter_(1, index, 1).bool()
    return matrix.transpose(0, 1).reshape(-1, columns), mask


def checked_mask(mask: Tensor, name: str) -> Tensor:
    """Check a mask and convert it to bool.

    Args:
        mask (Tensor): Shape (groups, columns). Zeros and ones of any dtype, since
            checkpoints may have been converted to half precision.
        name (str): Name for the message.

    Returns:
        Tensor: The mask as bools.

    Raises:
        InputError: If the mask has other values or an empty group.
    """
    kept = mask.bool()
    if mask.is_meta:
        return kept
    if not torch.equal(kept.to(mask.dtype), mask):
        raise InputError(
            f'{name} has values that are neither 0 nor 1: the checkpoint is damaged '
            'or another program changed it.'
        )
    empty = (~kept.any(1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(
            f'{name} keeps no channel in group {empty[0]} of {len(kept)}: the '
            'checkpoint is damaged or another program changed it.'
        )
    return kept


def check_index(index: Tensor, columns: int, name: str) -> None:
    """Check that an index has valid channels, each once per group.

    Args:
        index (Tensor): Shape (groups, kept), in any order.
        columns (int): Number of channels before pruning.
        name (str): Name for the message.

    Raises:
        InputError: If a channel is out of range or repeated in a group, or the
            dtype is not an integer type.
    """
    if index.dtype not in (torch.int64, torch.int32):
        raise InputError(f'{name} must be int64 or int32, got {index.dtype}.')
    if index.is_meta:
        return
    outside = index[(index < 0) | (index >= columns)]
    if outside.numel():
        raise InputError(
            f'{name} has channel {int(outside[0])}, expected 0 to {columns - 1}: the '
            'checkpoint is damaged or another program changed it.'
        )
    twice = index.sort(1).values.diff(dim=1).eq(0).any(1).nonzero()
    if twice.numel():
        raise InputError(
            f'{name} repeats a channel in group {int(twice[0])}: the checkpoint is '
            'damaged or another program changed it.'
        )


class GroupedMatrix:
    """Interface of a layer to the matrix view of its weight."""

    factor_name: str

    def matrix_and_mask(self) -> Tuple[Tensor, Tensor]:
        """Return the weight matrix and its mask.

        Returns:
            tuple[Tensor, Tensor]: The matrix, shape (rows, columns), and the
            bool mask, shape (groups, columns). Pruned entries of the matrix
            may be nonzero.
        """
        raise NotImplementedError

    @classmethod
    def resolve(
        cls,
        rows: int,
        columns: int,
        kernel_size: Union[int, Tuple[int, int]],
        groups: int,
        factor: Optional[int],
    ) -> Tuple[int, int]:
        """Check a layer's arguments and return its groups and factor.

        Args:
            rows (int): Rows of the weight matrix.
            columns (int): Columns of the weight matrix.
            kernel_size (int | tuple[int]): Must be 1.
            groups (int): Requested number of groups.
            factor (int, optional): Requested factor. Defaults to ``groups``.

        Returns:
            tuple[int, int]: Groups and factor to use.

        Raises:
            InputError: If the kernel is not 1x1, the factor is not in
                [1, columns] or the rows cannot be split into groups.
        """
        name = cls.__name__
        factor = groups if factor is None else factor
        if kernel_size not in (1, (1, 1)):
            raise InputError(
                f'{name} is a 1x1 convolution, got kernel_size={kernel_size}.'
            )
        if min(rows, columns) < 1:
            raise InputError(
                f'{name} needs at least 1 input channel and 1 output channel, got '
                f'in_channels and out_channels of {rows} and {columns}.'
            )
        if groups < 1:
            raise InputError(f'{name} needs groups of at least 1, got {groups}.')
        if not 1 <= factor <= columns:
            raise InputError(
                f'{name} with {columns} channels to prune: {cls.factor_name} must be '
                f'in [1, {columns}], got {factor}.'
            )
        return cls.fit_groups(rows, groups), factor

    @classmethod
    def fit_groups(cls, rows: int, groups: int) -> int:
        """Return the number of groups to split the rows into."""
        raise NotImplementedError

    @staticmethod
    def to_matrix(weight: Tensor) -> Tensor:
        """Turn a dense (out, in, 1, 1) weight into (rows, columns)."""
        raise NotImplementedError

    @staticmethod
    def from_matrix(matrix: Tensor) -> Tensor:
        """Invert :meth:`to_matrix`."""
        raise NotImplementedError

    @staticmethod
    def to_group_conv(entries: Tensor) -> Tensor:
        """Turn (groups, members, kept) into a group convolution's weight."""
        raise NotImplementedError

    @staticmethod
    def from_group_conv(weight: Tensor, groups: int) -> Tensor:
        """Invert :meth:`to_group_conv`."""
        raise NotImplementedError


class FilterGroups(GroupedMatrix):
    """LGC: rows are filters, columns are inputs."""

    factor_name = 'condense_factor'

    @classmethod
    def fit_groups(cls, rows: int, groups: int) -> int:
        if rows % groups:
            raise InputError(
                f'{cls.__name__} cannot split {rows} output channels into '
                f'{groups} equal groups: choose groups that divide {rows}.'
            )
        return groups

    @staticmethod
    def to_matrix(weight: Tensor) -> Tensor:
        return weight.flatten(1)

    @staticmethod
    def from_matrix(matrix: Tensor) -> Tensor:
        return matrix[:, :, None, None]

    @staticmethod
    def to_group_conv(entries: Tensor) -> Tensor:
        return entries.flatten(0, 1)[:, :, None, None]

    @staticmethod
    def from_group_conv(weight: Tensor, groups: int) -> Tensor:
        return weight.flatten(1).unflatten(0, (groups, -1))


class InputGroups(GroupedMatrix):
    """SFR: rows are inputs, columns are outputs."""

    factor_name = 'sparse_factor'

    @classmethod
    def fit_groups(cls, rows: int, groups: int) -> int:
        return next(g for g in range(min(groups, rows), 0, -1) if rows % g == 0)

    @staticmethod
    def to_matrix(weight: Tensor) -> Tensor:
        return weight.flatten(1).t()

    @staticmethod
    def from_matrix(matrix: Tensor) -> Tensor:
        return matrix.t()[:, :, None, None]

    @staticmethod
    def to_group_conv(entries: Tensor) -> Tensor:
        return entries.transpose(1, 2).flatten(0, 1)[:, :, None, None]

    @staticmethod
    def from_group_conv(weight: Tensor, groups: int) -> Tensor:
        return weight.flatten(1).unflatten(0, (groups, -1)).transpose(1, 2)
