"""Parts that the backbones share: blocks, freezing and recomputation."""

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
    """Check the indices of blocks and count negative ones from the last.

    Args:
        out_indices (int | Sequence[int]): One or more indices.
        num_blocks (int): Number of blocks that can be returned.

    Returns:
        tuple[int]: The indices, from 0 up, in the given order.

    Raises:
        InputError: If there are none or one is out of range.
    """
    indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if not indices or not all(-num_blocks <= i < num_blocks for i in indices):
        raise InputError(
            f'out_indices must be in [{-num_blocks}, {num_blocks - 1}] for '
            f'{num_blocks} blocks, got {indices}.'
        )
    return tuple(i % num_blocks for i in indices)


def check_frozen_stages(frozen_stages: int, num_blocks: int) -> None:
    """Refuse to freeze blocks that are not there.

    Args:
        frozen_stages (int): Number of blocks to freeze, or -1.
        num_blocks (int): Number of blocks that can be frozen.

    Raises:
        InputError: If it is out of range.
    """
    if not -1 <= frozen_stages <= num_blocks:
        raise InputError(
            f'frozen_stages must be in [-1, {num_blocks}], got {frozen_stages}.'
        )


@contextmanager
def _statistics_held(module: nn.Module) -> Iterator[None]:
    """Let norm layers see a batch again without counting it twice."""
    held = [
        (norm, name, buffer)
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training
        for name, buffer in norm.named_buffers()
    ]
    for norm, name, buffer in held:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in held:
            setattr(norm, name, buffer)


class RecomputedMixin(ModuleMixin):
    """``with_cp`` for a layer: recompute it in the backward pass.

    List it before the other base class, which has ``with_cp`` and either
    ``_forward`` or a ``forward`` that runs its parts by :meth:`_recomputed`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Run ``_forward``, keeping only its input if ``with_cp`` is set."""
        return self._recomputed(self._forward, x)

    def _recomputed(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Run a part of the layer, keeping only its inputs if ``with_cp`` is set.

        The recomputation ends where nothing is left to recover, so that a
        convolution at the end of the part runs only once.
        """
        # torch.fx traces without tensors, and records the layer as it is.
        x = inputs[0]
        if not (self.with_cp and isinstance(x, Tensor) and x.requires_grad):
            return function(*inputs)
        if is_compiling():
            # torch.compile cannot trace a context, and decides for itself what
            # is recomputed.
            return checkpoint(function, *inputs, use_reentrant=False)
        return checkpoint(
            function,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _statistics_held(self)),
        )


class BlockBackbone(CondensableMixin, BaseModule):
    """A stem and then blocks, of which some return their output.

    A subclass builds the parts and hands them to :meth:`_assemble`.

    Args:
        out_indices (int | Sequence[int]): Blocks whose outputs are returned;
            negative numbers count from the last one.
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
        """Take the parts, check the indices against them, and freeze.

        Args:
            stem (nn.Module): What comes before the blocks.
            blocks (Sequence[nn.Module]): The blocks, run one after another.
            out_channels (list[int]): Number of output channels of each block.

        Raises:
            InputError: If an index or ``frozen_stages`` is out of range.
        """
        self.stem = stem
        self.blocks = ModuleList(blocks)
        self.out_channels = out_channels
        check_frozen_stages(self.frozen_stages, len(blocks))
        self.out_indices = resolve_out_indices(self.out_indices, len(blocks))
        # DDP wants a gradient for every parameter that asks for one.
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
        """Set the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self
