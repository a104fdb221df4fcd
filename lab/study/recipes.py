"""From the study's config to an entry's."""

import copy
from typing import Any, Callable, Dict, List

from mmengine.config import Config

from mmcdnv2.config import type_of, typed_dicts
from mmcdnv2.errors import ConfigError

from .grid import Entry

LOADERS = ('train_dataloader', 'val_dataloader')

# By their names, how the learning rate may fall, for a number of epochs.
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
# The numbers of epochs in a scheduler.
_EPOCHS = ('begin', 'end', 'T_max')


def set_epochs(cfg: Config, epochs: int) -> None:
    """Make a training longer or shorter, its schedules with it.

    Args:
        cfg (Config): Changed in place.
        epochs (int): Number of epochs.
    """
    share = epochs / cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = epochs
    for scheduler in schedulers(cfg):
        if not scheduler.get('by_epoch', True):
            continue
        for key in _EPOCHS:
            if key in scheduler:
                scheduler[key] = round(scheduler[key] * share)
        # What is short may come to less than an epoch, which no scheduler takes.
        if 'end' in scheduler:
            scheduler['end'] = max(scheduler['end'], scheduler.get('begin', 0) + 1)
        if 'T_max' in scheduler:
            scheduler['T_max'] = max(scheduler['T_max'], 1)
        if 'milestones' in scheduler:
            scheduler['milestones'] = [
                round(epoch * share) for epoch in scheduler['milestones']
            ]


def entry_config(base: Config, entry: Entry) -> Config:
    """Make an entry's config.

    Args:
        base (Config): The study's config; left as it is.
        entry (Entry): What to change.

    Returns:
        Config: All that trains it but the seed.

    Raises:
        ConfigError: If the config has not what the entry would change.
    """
    cfg = copy.deepcopy(base)
    try:
        cfg.merge_from_dict(copy.deepcopy(entry.options))
    except (TypeError, AttributeError) as error:
        # An arch's name, for example, where its settings are to be changed.
        raise ConfigError(
            f'the config has not what it would change: {error}'
        ) from error
    _set_hook(cfg, entry)
    if entry.schedule:
        # What goes by iterations is the warm-up.
        warm_up = [s for s in schedulers(cfg) if not s.get('by_epoch', True)]
        decay = SCHEDULES[entry.schedule](cfg.train_cfg.max_epochs)
        cfg.param_scheduler = [*warm_up, decay]
    if entry.resize:
        for loader in LOADERS:
            _resize(cfg[loader].dataset, entry.resize)
    return cfg


def schedulers(cfg: Config) -> List[Dict]:
    """List a config's schedulers, of which it may name one without a list.

    Args:
        cfg (Config): Config of a training.

    Returns:
        list[dict]: Those of the config, not copies.
    """
    found = cfg.get('param_scheduler') or []
    return [found] if isinstance(found, dict) else list(found)


def _set_hook(cfg: Config, entry: Entry) -> None:
    hooks = list(cfg.get('custom_hooks') or [])
    if entry.hook is None:
        hooks = [hook for hook in hooks if type_of(hook) != 'SparsificationHook']
    for hook in hooks:
        if type_of(hook) == 'SparsificationHook':
            hook.update(entry.hook or {})
    cfg.custom_hooks = hooks


def _resize(dataset: Any, size: int) -> None:
    for part in typed_dicts(dataset):
        if 'pipeline' in part:
            pipeline = list(part['pipeline'])
            # Last but for the packing, so after all crops.
            pipeline.insert(-1, dict(type='Resize', scale=size))
            part['pipeline'] = pipeline
