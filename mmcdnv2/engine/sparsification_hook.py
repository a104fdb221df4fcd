"""The hook that sparsifies a network while it trains."""

import logging
from typing import Any, Dict, List, Optional

from mmengine.dist import broadcast
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..errors import InputError
from ..layers import (
    SparseConv2d,
    kept_fraction,
    sparse_layers,
    stage_of,
    unfinished_layers,
)
from .optimizer_order import renumber_checkpoint
from .runner import unwrap_model


@HOOKS.register_module()
class SparsificationHook(Hook):
    """Drive the sparsification by the progress of the training.

    Before each iteration every sparse convolution is brought to the stage
    that ``runner.iter / runner.max_iters`` lies in (paper, Sec. 3), for
    epoch- and iteration-based training alike. The masks are the only state,
    so a resumed training goes on as if it had never stopped. Models averaged
    by :class:`mmengine.hooks.EMAHook` get the same masks.

    The fraction of kept weights is logged as ``kept_fraction``.

    Args:
        group_lasso (float): Weight of the group-lasso term (CondenseNet,
            Sec. 3) that joins the losses as ``loss_group_lasso`` while there
            is something left to prune. Defaults to 0, no such term.

    Raises:
        InputError: If ``group_lasso`` is negative.

    Examples:
        >>> custom_hooks = [dict(type='SparsificationHook')]
    """

    def __init__(self, group_lasso: float = 0.0) -> None:
        if group_lasso < 0:
            raise InputError(f'group_lasso must not be negative, got {group_lasso}.')
        self.group_lasso = group_lasso
        self._layers: Dict[str, SparseConv2d] = {}
        self._unfinished: List[SparseConv2d] = []
        self._stages: Dict[str, int] = {}
        self._kept_fraction = 1.0
        self._lasso_handle = None

    def before_train(self, runner: Runner) -> None:
        """Find the sparse convolutions and register the group lasso."""
        model = unwrap_model(runner.model)
        self._layers = sparse_layers(model)
        self._stages = {}
        if not self._layers:
            print_log(
                'SparsificationHook found no LGC or SFR in the model: nothing to '
                'sparsify. Was the backbone built with deploy=True?',
                logger='current',
                level=logging.WARNING,
            )
        self._masks_changed(runner)
        if self.group_lasso:
            self._lasso_handle = model.register_forward_hook(
                self._add_group_lasso, with_kwargs=True
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        """Bring all masks to the stage of this iteration."""
        progress = runner.iter / runner.max_iters
        changed = False
        for name, layer in self._layers.items():
            # Masks live on the device: look at them only when a stage begins.
            stage = stage_of(progress, layer.factor)
            if self._stages.get(name) != stage:
                self._stages[name] = stage
                changed |= layer.set_progress(progress)
        if changed:
            self._masks_changed(runner)
        runner.message_hub.update_scalar('train/kept_fraction', self._kept_fraction)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Let a training that an earlier version began go on."""
        if 'optimizer' in checkpoint and isinstance(runner.optim_wrapper, OptimWrapper):
            model = unwrap_model(runner.model)
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = runner.optim_wrapper.optimizer
            renumber_checkpoint(checkpoint, optimizer, trained)

    def after_train(self, runner: Runner) -> None:
        """Say whether every layer reached its final count."""
        if self._lasso_handle is not None:
            self._lasso_handle.remove()
            self._lasso_handle = None
        if not self._layers:
            return
        unfinished = unfinished_layers(unwrap_model(runner.model))
        if not unfinished:
            print_log(
                f'Sparsification finished: all {len(self._layers)} sparse layers '
                f'reached their final count, {self._kept_fraction:.4f} of their '
                'weights are kept. Condense the checkpoint with tools/condense.py.',
                logger='current',
            )
            return
        print_log(
            f'Sparsification is unfinished in {len(unfinished)} of '
            f'{len(self._layers)} sparse layers, so the model cannot be condensed '
            'yet:\n' + '\n'.join(f'{k} {v}' for k, v in unfinished.items()),
            logger='current',
            level=logging.WARNING,
        )

    def _masks_changed(self, runner: Runner) -> None:
        for layer in self._layers.values():
            # Ranks prune alike as long as their weights are equal to the last
            # bit; one set of masks does not rest on that.
            broadcast(layer.mask)
        for hook in runner.hooks:
            # EMAHook copies buffers late or, with update_buffers, not at all.
            if isinstance(hook, EMAHook):
                averaged = hook.ema_model.module
                for name, layer in self._layers.items():
                    averaged.get_submodule(name).mask.copy_(layer.mask)
        self._unfinished = [m for m in self._layers.values() if not m.is_finished]
        self._kept_fraction = kept_fraction(unwrap_model(runner.model))

    def _add_group_lasso(
        self, module: nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> Any:
        if kwargs.get('mode') == 'loss' and self._unfinished:
            terms: List[Tensor] = [layer.group_lasso() for layer in self._unfinished]
            output['loss_group_lasso'] = self.group_lasso * sum(terms)
        return output
