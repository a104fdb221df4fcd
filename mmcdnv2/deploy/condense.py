"""Condense a trained checkpoint; used by tools/condense.py."""

import copy
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional, Tuple, Union

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import save_checkpoint
from torch import nn

from ..builder import build_model, make_inputs
from ..checkpoint import check_finite, load_checkpoint, load_weights, weights_of
from ..condensable import CondensableMixin
from ..config import load_config, type_of, typed_dicts
from ..errors import InputError
from ..files import check_writable, replace_all_when_done
from ..layers import (
    SparseConv2d,
    condense_layers,
    kept_fraction,
    kernel_report,
    sparse_layers,
    unfinished_layers,
)
from .costs import Costs, measure_costs
from .norms import check_norms
from .proof import largest_difference, record_calls

# Largest accepted difference of an output, relative to its largest value.
TOLERANCE = 1e-4


@dataclass
class CondenseReport(Costs):
    """Result of condensing a model.

    Attributes:
        config (Path): The written config.
        checkpoint (Path): The written checkpoint.
        input_shape (tuple[int]): Height and width of the input in pixels.
        max_difference (float): Largest difference between outputs of the sparse
            and the condensed model's parts, relative to the output's largest value.
        kept_fraction (float): Fraction of the sparse layers' weights kept.
        runs_on (dict[str, str]): Implementation that each condensed part runs on
            here, by name; see :func:`~mmcdnv2.layers.kernel_report`.
        compared (tuple[str]): Names of the compared parts, in execution order.
            Each sparse layer is compared in addition.
    """

    config: Path
    checkpoint: Path
    input_shape: Tuple[int, int]
    max_difference: float
    kept_fraction: float
    runs_on: Dict[str, str]
    compared: Tuple[str, ...]


def condense_checkpoint(
    config: str,
    checkpoint: str,
    out_dir: Union[str, Path],
    image: Optional[str] = None,
    input_shape: Optional[Tuple[int, int]] = None,
    trust: bool = False,
) -> CondenseReport:
    """Condense a classifier or a detector and check that outputs are equal.

    Writes ``OUT_DIR/CONFIG_condensed.py`` and ``OUT_DIR/CONFIG_condensed.pth``
    after loading both and comparing the outputs with the sparse model's.

    Args:
        config (str): Config file of the sparse model.
        checkpoint (str): Its checkpoint, with finished sparsification.
        out_dir (str | Path): Output folder.
        image (str, optional): Image to compare and time on. Defaults to
            random pixels.
        input_shape (tuple[int], optional): Height and width to scale the image
            to. Defaults to the size of the config's test data.
        trust (bool): Whether the checkpoint may contain more than tensors.

    Returns:
        CondenseReport: Paths, differences and costs.

    Raises:
        InputError: If an input cannot be used, the sparsification is
            unfinished or the outputs differ. Nothing is written then.
    """
    cfg = load_config(config)
    stem = f'{Path(config).stem}_condensed'
    outputs = [Path(out_dir) / f'{stem}{suffix}' for suffix in ('.py', '.pth')]
    for path in outputs:
        check_writable(path)
    content = load_checkpoint(checkpoint, trust)
    sparse = build_model(cfg)
    load_weights(sparse, weights_of(content), checkpoint)
    if not sparse_layers(sparse):
        raise InputError(
            f'{config} has no sparse layers to condense: its backbone has no LGC or '
            'SFR, or sets deploy=True.'
        )
    check_finished(sparse, checkpoint)
    check_norms(sparse, checkpoint)
    inputs, samples = make_inputs(sparse, cfg, image, input_shape)
    calls, layer_calls = record_calls(sparse, inputs, samples, checkpoint)
    # Covers the parts that did not run.
    check_finite(sparse.state_dict(), checkpoint)

    print_log('Condensing the model and comparing outputs.')
    meta = {
        key: content['meta'][key]
        for key in ('dataset_meta', 'CLASSES', 'PALETTE', 'epoch', 'iter')
        if key in (content.get('meta') or {})
    }
    with replace_all_when_done(outputs) as (new_config, new_checkpoint):
        condensed_config(cfg).dump(new_config)
        weights = _condensed_copy(sparse).state_dict()
        save_checkpoint(dict(meta=meta, state_dict=weights), str(new_checkpoint))
        # Compare the written files, not the copy in memory.
        condensed = build_model(Config.fromfile(new_config))
        load_weights(
            condensed, load_checkpoint(new_checkpoint)['state_dict'], new_checkpoint
        )
        if sparse_layers(condensed):
            raise InputError(
                'The model has sparse layers that the config does not list, so the '
                'condensed config builds them again: '
                f'{next(iter(sparse_layers(condensed)))} must come from a conv_cfg or '
                'a backbone with a deploy argument.'
            )
        difference, part = largest_difference(sparse, condensed, calls + layer_calls)
        if difference > TOLERANCE:
            raise InputError(
                f'The condensed model differs from the sparse one by {difference:.1e} '
                f'in {part}, more than {TOLERANCE:.0e}, so nothing was written. This '
                'is a bug of mmcdnv2, please report it.'
            )
    print_log('The outputs are equal. Counting and timing both models.')
    return CondenseReport(
        config=outputs[0],
        checkpoint=outputs[1],
        input_shape=tuple(inputs.shape[-2:]),
        max_difference=difference,
        kept_fraction=kept_fraction(sparse),
        runs_on=kernel_report(condensed),
        compared=tuple(dict.fromkeys(call.name for call in calls)),
        **vars(measure_costs(sparse, condensed, inputs, samples)),
    )


def check_finished(model: nn.Module, checkpoint: Union[str, Path]) -> None:
    """Reject a model whose sparsification is unfinished.

    Args:
        model (nn.Module): With or without sparse layers.
        checkpoint (str | Path): Source of its weights, for the message.

    Raises:
        InputError: If a layer's sparsification is unfinished.
    """
    unfinished = unfinished_layers(model)
    if unfinished:
        raise InputError(
            f'The sparsification of {checkpoint} is unfinished in {len(unfinished)} of '
            f'{len(sparse_layers(model))} layers, so it cannot be condensed: use one '
            'that was saved after the last pruning, for example the last of the '
            'training run, or resume the run with the SparsificationHook:\n'
            + '\n'.join(f'  {name} {state}' for name, state in unfinished.items())
        )


def condensed_config(cfg: Config) -> Config:
    """Convert a sparse model's config to its condensed form.

    Args:
        cfg (Config): Not modified.

    Returns:
        Config: With ``deploy=True`` for our backbones, condensed layer types
        instead of sparse ones, no initial weights and no training hooks.
    """
    cfg = copy.deepcopy(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for part in typed_dicts(cfg.model):
        kind = part['type']
        module = MODELS.get(kind) if isinstance(kind, str) else kind
        if not inspect.isclass(module):
            continue
        if issubclass(module, CondensableMixin):
            part['deploy'] = True
            part.pop('init_cfg', None)
        elif issubclass(module, SparseConv2d):
            condensed = module.condensed_type
            part['type'] = condensed.__name__ if isinstance(kind, str) else condensed
    cfg.custom_hooks = [
        hook
        for hook in cfg.get('custom_hooks') or []
        if type_of(hook) not in ('SparsificationHook', 'EMAHook')
    ]
    cfg.load_from = None
    cfg.resume = False
    return cfg


def _condensed_copy(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    condense_layers(model)
    return model
