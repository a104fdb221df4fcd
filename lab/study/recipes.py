"""Derive the config of an entry from the study's config."""

import copy
from typing import Any, Callable, Dict, List

from mmengine.config import Config

from mmcdnv2.config import type_of, typed_dicts
from mmcdnv2.errors import ConfigError

from .grid import Entry

LOADERS = ('train_dataloader', 'val_dataloader')

# Learning rate schedules by name, for a number of epochs.
SCHEDULES: Dict[str, Callable[[int], Dict[str, Any]]] = {
    'linear': lambda epochs: dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.0,
        end=epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    'step': lambda epochs: dict(
        type='MultiStepLR',
        milestones=[epochs // 2, epochs * 3 // 4],
        gamma=0.1,
        by_epoch=True,
    ),
}


def set_epochs(cfg: Config, epochs: int) -> None:
    """Set the number of epochs and scale the schedules to it, in place."""
    share = epochs / cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = epochs
    for scheduler in _schedulers(cfg):
        if not scheduler.get('by_epoch', True):
            continue
        for key in ('begin', 'end', 'T_max'):
            if key in scheduler:
                scheduler[key] = round(scheduler[key] * share)
        # No scheduler accepts less than an epoch.
        if 'end' in scheduler:
            scheduler['end'] = max(scheduler['end'], scheduler.get('begin', 0) + 1)
        if 'T_max' in scheduler:
            scheduler['T_max'] = max(scheduler['T_max'], 1)
        if 'milestones' in scheduler:
            scheduler['milestones'] = [
                round(epoch * share) for epoch in scheduler['milestones']
            ]


def entry_config(base: Config, entry: Entry) -> Config:
    """Return an entry's config.

    Args:
        base (Config): The study's config; not changed.
        entry (Entry): What to change.

    Raises:
        ConfigError: If the config lacks a setting that the entry changes.
    """
    cfg = copy.deepcopy(base)
    try:
        cfg.merge_from_dict(copy.deepcopy(entry.options))
    except (TypeError, AttributeError) as error:
        # For example, arch is a name and not a dict of settings.
        raise ConfigError(
            f'the config lacks settings that the entry changes: {error}'
        ) from error
    hooks = list(cfg.get('custom_hooks') or [])
    if entry.hook is None:
        hooks = [hook for hook in hooks if type_of(hook) != 'SparsificationHook']
    for hook in hooks:
        if type_of(hook) == 'SparsificationHook':
            hook.update(entry.hook or {})
    cfg.custom_hooks = hooks
    if entry.schedule:
        # The warm-up counts iterations; keep it.
        warm_up = [s for s in _schedulers(cfg) if not s.get('by_epoch', True)]
        decay = SCHEDULES[entry.schedule](cfg.train_cfg.max_epochs)
        cfg.param_scheduler = [*warm_up, decay]
    if entry.resize:
        for loader in LOADERS:
            _resize(cfg[loader].dataset, entry.resize)
    return cfg


def _schedulers(cfg: Config) -> List[Dict]:
    """Return the schedulers as a list; a config may have one without a list."""
    found = cfg.get('param_scheduler') or []
    return [found] if isinstance(found, dict) else list(found)


def _resize(dataset: Any, size: int) -> None:
    for part in typed_dicts(dataset):
        if 'pipeline' in part:
            pipeline = list(part['pipeline'])
            # After all crops, before packing.
            pipeline.insert(-1, dict(type='Resize', scale=size))
            part['pipeline'] = pipeline
