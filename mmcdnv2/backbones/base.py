"""Shared parts of the backbones: blocks, freezing and recomputation."""

from contextlib import contextmanager, nullcontext
from typing import (
    Callable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from mmengine.model import BaseModule, ModuleList
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..condensable import CondensableMixin
from ..errors import InputError
from ..mixin import ModuleMixin
from ..ops.compat import is_compiling


def resolve_out_indices(
    out_indices: Union[int, Sequence[int]], num_blocks: int
) -> Tuple[int, ...]:
    """Check block indices and make negative ones positive.

    Args:
        out_indices (int | Sequence[int]): One or more indices.
        num_blocks (int): Number of blocks that can be returned.

    Returns:
        tuple[int]: Non-negative indices, in the given order.

    Raises:
        InputError: If there is none or one is out of range.
    """
    indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if not indices or not all(-num_blocks <= i < num_blocks for i in indices):
        raise InputError(
            f'out_indices must be in [{-num_blocks}, {num_blocks - 1}] for '
            f'{num_blocks} blocks, got {indices}.'
        )
    return tuple(i % num_blocks for i in indices)


def check_frozen_stages(frozen_stages: int, num_blocks: int) -> None:
    """Check that ``frozen_stages`` is in [-1, num_blocks].

    Args:
        frozen_stages (int): Number of blocks to freeze, or -1.
        num_blocks (int): Number of blocks that can be frozen.

    Raises:
        InputError: If ``frozen_stages`` is out of range.
    """
    if not -1 <= frozen_stages <= num_blocks:
        raise InputError(
            f'frozen_stages must be in [-1, {num_blocks}], got {frozen_stages}.'
        )


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Restore the norms' running statistics after a second pass of a batch."""
    saved = [
        (norm, name, buffer)
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training
        for name, buffer in norm.named_buffers()
    ]
    for norm, name, buffer in saved:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in saved:
            setattr(norm, name, buffer)


class RecomputedMixin(ModuleMixin):
    """``with_cp`` for a layer: recompute its activations in the backward pass.

    List it before the other base class, which defines ``with_cp`` and either
    ``_forward`` or a ``forward`` that calls its parts with :meth:`_recomputed`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Run ``_forward``, storing only its input if ``with_cp`` is set."""
        return self._recomputed(self._forward, x)

    def _recomputed(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Run a part of the layer, storing only its inputs if ``with_cp`` is set.

        Recomputation stops at the last saved tensor, so a convolution at the end
        of the part is not recomputed.
        """
        # torch.fx traces without tensors, and records the layer as it is.
        x = inputs[0]
        if not (self.with_cp and isinstance(x, Tensor) and x.requires_grad):
            return function(*inputs)
        if is_compiling():
            # torch.compile cannot trace context_fn and decides itself what to
            # recompute.
            return checkpoint(function, *inputs, use_reentrant=False)
        return checkpoint(
            function,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _frozen_statistics(self)),
        )


class BlockBackbone(CondensableMixin, BaseModule):
    """A stem followed by blocks, some of whose outputs are returned.

    A subclass builds the parts and passes them to :meth:`_assemble`.

    Args:
        out_indices (int | Sequence[int]): Blocks whose outputs are returned;
            negative numbers count from the last block.
        frozen_stages (int): 0 freezes the stem, n the stem and the first n
            blocks; -1 freezes nothing.
        norm_eval (bool): Whether norm layers use their running statistics in
            training.
        init_cfg (dict, optional): Initialisation config.
    """

    def __init__(
        self,
        out_indices: Union[int, Sequence[int]],
        frozen_stages: int,
        norm_eval: bool,
        init_cfg: Optional[dict],
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.out_indices: Tuple[int, ...] = (
            (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

    def _assemble(
        self, stem: nn.Module, blocks: Sequence[nn.Module], out_channels: List[int]
    ) -> None:
        """Set the parts, check the indices and freeze stages.

        Args:
            stem (nn.Module): The module before the blocks.
            blocks (Sequence[nn.Module]): The blocks, in execution order.
            out_channels (list[int]): Number of output channels of each block.

        Raises:
            InputError: If an index or ``frozen_stages`` is out of range.
        """
        self.stem = stem
        self.blocks = ModuleList(blocks)
        self.out_channels = out_channels
        check_frozen_stages(self.frozen_stages, len(blocks))
        self.out_indices = resolve_out_indices(self.out_indices, len(blocks))
        # DDP expects a gradient for every trainable parameter.
        self.blocks[max(self.out_indices) + 1 :].requires_grad_(False)
        self._freeze()

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the features of the blocks in ``out_indices``.

        Args:
            x (Tensor): Images, shape (N, in_channels, H, W).

        Returns:
            tuple[Tensor]: Feature maps, shapes (N, out_channels[i], H / s,
            W / s) with s the stride of block i.
        """
        x = self.stem(x)
        outs = []
        for i, block in zip(range(max(self.out_indices) + 1), self.blocks):
            x = block(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.stem, *self.blocks[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'BlockBackbone':
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self
