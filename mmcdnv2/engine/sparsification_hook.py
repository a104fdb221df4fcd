"""The hook that sparsifies a network while it trains."""

import logging
import math
from typing import Any, ClassVar, Dict, List, Optional, Union

import torch
from mmengine.dist import broadcast
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..checkpoint import unwrap_model
from ..errors import InputError
from ..layers import (
    SparseConv2d,
    kept_fraction,
    sparse_layers,
    stage_of,
    unfinished_layers,
)
from ..registry import register_hook
from .averages import averaged_layers
from .optimizer_order import renumber_checkpoint

# Iterations between two looks at the weights, which wait for the device.
_CHECK_INTERVAL = 50


def training_progress(loop: BaseLoop, batch_idx: int) -> float:
    """Fraction of a training that is done when an iteration begins.

    Args:
        loop (BaseLoop): The loop that trains.
        batch_idx (int): Index of the iteration, in its epoch if there are
            epochs.

    Returns:
        float: From 0 to 1.
    """
    if isinstance(loop, EpochBasedTrainLoop):
        # The count of iterations is carried over when a training is resumed,
        # although the epochs may have another length now.
        epochs = loop.epoch + batch_idx / len(loop.dataloader)
        progress = epochs / loop.max_epochs
    else:
        progress = loop.iter / loop.max_iters
    # A loop of another kind may exceed what it announces.
    return min(progress, 1.0)


@torch.no_grad()
def _zero_pruned(
    layer: SparseConv2d, optim_wrapper: Union[OptimWrapper, OptimWrapperDict]
) -> None:
    """Set what is pruned of a weight, and of the optimizer's state of it, to zero."""
    wrappers = (
        optim_wrapper.values()
        if isinstance(optim_wrapper, OptimWrapperDict)
        else [optim_wrapper]
    )
    states = (wrapper.optimizer.state.get(layer.weight, {}) for wrapper in wrappers)
    tensors = [value for state in states for value in state.values()]
    for tensor in (layer.weight, *tensors):
        if isinstance(tensor, Tensor) and tensor.shape == layer.weight.shape:
            layer.zero_pruned(tensor)


@register_hook
class SparsificationHook(Hook):
    """Drive the sparsification by the progress of the training.

    Before each iteration every sparse convolution is brought to the stage
    that the progress of the training lies in (paper, Sec. 3). A loop of
    epochs has done ``epoch + batch_idx / len(dataloader)`` of its
    ``max_epochs``, any other loop ``iter`` of its ``max_iters``.

    Nothing of the hook is saved: the masks and the loop's count are in every
    checkpoint, and the rest is found anew when a training begins. So a resumed
    training goes on by the schedule, with another batch size, on more ranks or
    from the middle of an epoch too, and what is pruned stays pruned.

    Averages of other weights do not prune by their own weights but get the
    same masks: the model of :class:`mmengine.hooks.EMAHook`,
    the teacher of mmdet's ``MeanTeacherHook`` and, inside the model,
    MMEngine's averaged models such as mmpretrain's momentum encoders.

    What is pruned becomes zero, and so does what the optimizer remembers of it:
    neither momentum nor decay moves it again, and optimizers that look at the norm
    of a whole weight see what is used.

    Only finished masks compete for the best checkpoint of MMEngine's
    ``CheckpointHook``, and its ``EarlyStoppingHook`` judges them alone: what they
    remember of earlier validations is forgotten when the last pruning is done.

    The fraction of kept weights is logged as ``kept_fraction``. If a sparse layer's
    weights become NaN or infinite, the training ends with its name.

    Args:
        group_lasso (float): Weight of the group-lasso term (CondenseNet,
            Sec. 3) that joins the losses as ``loss_group_lasso`` while there
            is something left to prune. Defaults to 0, no such term.
        averages (dict[str, str], optional): Further parts of the model that
            are averages, by the names of submodules: what each one is an
            average of. Defaults to None, none but those above.
        begin (float): Fraction of the training at which the first pruning stage
            begins. Defaults to 0.
        end (float): Fraction of the training at which the last pruning is done.
            Defaults to 0.5, as in the paper.

    Raises:
        InputError: If ``group_lasso`` is negative or not
            ``0 <= begin < end < 1``; when the training begins, if ``averages``
            does not fit the model; while it goes on, if weights are not finite.

    Examples:
        >>> custom_hooks = [dict(type='SparsificationHook')]
        >>> # A model that averages its teacher itself.
        >>> hook = dict(type='SparsificationHook', averages=dict(teacher='backbone'))
    """

    # Kept by the class: an interrupted training does not reach `after_train`, so
    # the next one, with a hook of its own, removes the term.
    _lasso_handle: ClassVar[Optional[RemovableHandle]] = None

    def __init__(
        self,
        group_lasso: float = 0.0,
        averages: Optional[Dict[str, str]] = None,
        begin: float = 0.0,
        end: float = 0.5,
    ) -> None:
        if group_lasso < 0:
            raise InputError(f'group_lasso must not be negative, got {group_lasso}.')
        if not 0 <= begin < end < 1:
            raise InputError(
                'The sparsification must begin and end in the training, '
                f'0 <= begin < end < 1, got {begin} and {end}.'
            )
        self.begin = begin
        self.end = end
        self.group_lasso = group_lasso
        self.averages = averages or {}
        self._layers: Dict[str, SparseConv2d] = {}
        self._originals: Dict[SparseConv2d, SparseConv2d] = {}
        self._unfinished: List[SparseConv2d] = []
        self._stages: Dict[str, int] = {}
        self._kept_fraction = 1.0

    def before_train(self, runner: Runner) -> None:
        """Find the sparse convolutions and register the group lasso."""
        model = unwrap_model(runner.model)
        self._originals = averaged_layers(model, runner.hooks, self.averages)
        self._layers = {
            name: layer
            for name, layer in sparse_layers(model).items()
            if layer not in self._originals
        }
        self._stages = {}
        if self._originals:
            print_log(
                f'{len(self._originals)} sparse layers are averages of others, whose '
                'masks they get.',
                logger='current',
            )
        if not self._layers:
            print_log(
                'SparsificationHook found no LGC or SFR in the model: nothing to '
                'sparsify. Was the backbone built with deploy=True?',
                logger='current',
                level=logging.WARNING,
            )
        self._masks_changed(runner)
        self._remove_group_lasso()
        if self.group_lasso:
            SparsificationHook._lasso_handle = model.register_forward_hook(
                self._add_group_lasso, with_kwargs=True
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        """Bring all masks to the stage of this iteration."""
        progress = training_progress(runner.train_loop, batch_idx)
        if runner.iter % _CHECK_INTERVAL == 0:
            self._check_weights(runner)
        changed = False
        for name, layer in self._layers.items():
            # The masks are on the device: look at them only when a stage begins.
            stage = stage_of(progress, layer.factor, self.begin, self.end)
            if stage > self._stages.get(name, -1):
                if not changed:
                    # They decide what is pruned.
                    self._check_weights(runner)
                self._stages[name] = stage
                changed |= layer.set_stage(stage)
        if changed:
            self._masks_changed(runner)
            if not self._unfinished:
                self._forget_best(runner)
        runner.message_hub.update_scalar('train/kept_fraction', self._kept_fraction)

    def after_train_epoch(self, runner: Runner) -> None:
        """Refuse weights that are not worth a checkpoint."""
        self._check_weights(runner)

    def after_val(self, runner: Runner) -> None:
        """Keep early stopping from judging unfinished masks."""
        if not self._unfinished:
            return
        for hook in runner.hooks:
            if isinstance(hook, EarlyStoppingHook):
                hook.wait_count = 0
                hook.best_score = -math.inf if hook.rule == 'greater' else math.inf
                runner.train_loop.stop_training = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Let a training that an earlier version began go on."""
        if 'optimizer' in checkpoint and isinstance(runner.optim_wrapper, OptimWrapper):
            model = unwrap_model(runner.model)
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = runner.optim_wrapper.optimizer
            renumber_checkpoint(checkpoint, optimizer, trained)

    def after_train(self, runner: Runner) -> None:
        """Say whether every layer reached its final count."""
        self._remove_group_lasso()
        if not self._layers:
            return
        unfinished = unfinished_layers(unwrap_model(runner.model))
        total = len(self._layers) + len(self._originals)
        if not unfinished:
            print_log(
                f'Sparsification finished: all {total} sparse layers '
                f'reached their final count, {self._kept_fraction:.4f} of their '
                'weights are kept. Condense the checkpoint with tools/condense.py.',
                logger='current',
            )
            return
        print_log(
            f'Sparsification is unfinished in {len(unfinished)} of '
            f'{total} sparse layers, so the model cannot be condensed '
            'yet:\n' + '\n'.join(f'{k} {v}' for k, v in unfinished.items()),
            logger='current',
            level=logging.WARNING,
        )

    def _check_weights(self, runner: Runner) -> None:
        """Refuse weights that are not finite, by the names of their layers."""
        if not self._layers:
            return
        # A NaN is the largest of all. The device is waited for once.
        peaks = [layer.weight.detach().abs().amax() for layer in self._layers.values()]
        finite = torch.stack(peaks).isfinite().tolist()
        bad = [name for name, good in zip(self._layers, finite) if not good]
        if bad:
            others = f' and {len(bad) - 1} other sparse layers' if bad[1:] else ''
            raise InputError(
                f'The weights of {bad[0]}{others} are NaN or infinite before iteration '
                f'{runner.iter}: the training has diverged; resume it from a '
                'checkpoint before, with a lower learning rate or clipped gradients.'
            )

    def _masks_changed(self, runner: Runner) -> None:
        for layer in self._layers.values():
            # Ranks prune alike as long as their weights are equal to the last
            # bit; one set of masks does not rest on that.
            broadcast(layer.mask)
            if layer.weight.requires_grad:
                _zero_pruned(layer, runner.optim_wrapper)
        # Averaging copies buffers late or, as with update_buffers, not at all.
        for average, original in self._originals.items():
            average.mask.copy_(original.mask)
        model = unwrap_model(runner.model)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                averaged = hook.ema_model.module
                for name, layer in sparse_layers(model).items():
                    averaged.get_submodule(name).mask.copy_(layer.mask)
        self._unfinished = [m for m in self._layers.values() if not m.is_finished]
        self._kept_fraction = kept_fraction(model)

    @staticmethod
    def _forget_best(runner: Runner) -> None:
        """Let the next validation give the best checkpoint, which replaces the old."""
        # CheckpointHook keeps a score for each of its metrics here.
        info = runner.message_hub.runtime_info
        for key in [key for key in info if key.startswith('best_score')]:
            del info[key]
        if any(getattr(hook, 'save_best', None) for hook in runner.hooks):
            print_log(
                'Sparsification is finished: only what is validated from here on '
                'competes for the best checkpoint, as an earlier one cannot be '
                'condensed.',
                logger='current',
            )

    @staticmethod
    def _remove_group_lasso() -> None:
        if SparsificationHook._lasso_handle is not None:
            SparsificationHook._lasso_handle.remove()
            SparsificationHook._lasso_handle = None

    def _add_group_lasso(
        self, module: nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> Any:
        if kwargs.get('mode') == 'loss' and self._unfinished:
            terms: List[Tensor] = [layer.group_lasso() for layer in self._unfinished]
            output['loss_group_lasso'] = self.group_lasso * sum(terms)
        return output
