"""What a study will train, checked before anything is trained."""

import copy
import hashlib
import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS, init_default_scope

from mmcdnv2.builder import build_model
from mmcdnv2.config import load_config, type_of, typed_dicts
from mmcdnv2.errors import ConfigError, InputError, in_one_line

from .costs import count_costs, widen
from .data import DataSet, check_data_sets, fingerprint_files, make_missing_data
from .grid import ENTRIES, Entry, select_entries
from .recipes import LOADERS, entry_config, schedulers, set_epochs

# What a training comes from; the rest of a config says what it prints and keeps.
_DECISIVE = (
    'model',
    'data_preprocessor',
    'train_dataloader',
    'val_dataloader',
    'val_evaluator',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'custom_hooks',
    'load_from',
)


@dataclass(frozen=True)
class Settings:
    """Settings of a study.

    Attributes:
        config (str): Config file of a classifier with a CondenseNetV2, whose
            data and recipe all entries share.
        out (Path): Folder for the trainings and the results.
        entries (tuple[str]): Names of entries; empty for all there are.
        seeds (tuple[int]): A training of each entry for each seed.
        epochs (int, optional): Epochs of a training. Defaults to the config's.
        data_root (str, optional): Folder with the data. Defaults to the
            config's.
        options (dict): Settings of the config to override, with dotted keys.
    """

    config: str
    out: Path
    entries: Tuple[str, ...] = ()
    seeds: Tuple[int, ...] = (0, 1, 2)
    epochs: Optional[int] = None
    data_root: Optional[str] = None
    options: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0:
            raise InputError('A study needs at least one seed, none of them negative.')
        if self.epochs is not None and self.epochs < 1:
            raise InputError('A training needs at least one epoch.')


@dataclass(frozen=True)
class PlannedEntry:
    """An entry that can be trained.

    Attributes:
        entry (Entry): Which one.
        cfg (Config): Its config, but for the seed.
        params (int): Parameters, condensed.
        macs (int): MACs of one image, condensed.
        images (int): Images in all epochs of a training.
    """

    entry: Entry
    cfg: Config
    params: int
    macs: int
    images: int


@dataclass(frozen=True)
class Training:
    """A training of an entry.

    Attributes:
        planned (PlannedEntry): What is trained.
        seed (int): Seed of all its randomness.
        folder (Path): Folder for what it leaves.
        fingerprint (str): Hash of all in its config that decides what is learned
            and of the names and sizes of its data's files.
    """

    planned: PlannedEntry
    seed: int
    folder: Path
    fingerprint: str

    @property
    def name(self) -> str:
        """str: Entry and seed, in words."""
        return f'{self.planned.entry.name}, seed {self.seed}'

    def config(self) -> Config:
        """Return the whole config."""
        cfg = Config(self.planned.cfg.to_dict())
        cfg.randomness = dict(seed=self.seed)
        # The study tests by top-1 error alone, whatever else a config would. Set
        # here and not in the planned config, so that the fingerprint stays the same.
        cfg.val_evaluator = dict(type='mmpretrain.Accuracy', topk=1)
        cfg.val_cfg = dict()
        return cfg


def plan_study(settings: Settings) -> List[Training]:
    """Find out what a study has to train, and whether it can.

    Args:
        settings (Settings): What is studied.

    Returns:
        list[Training]: All entries with the first seed, then with the second
        and so on, so that a study that is interrupted has whole comparisons.

    Raises:
        InputError: If an entry is unknown or cannot be built, or the data is
            missing or does not fit the config.
    """
    entries = select_entries(settings.entries)
    try:
        base = base_config(settings)
        make_missing_data(base, settings.data_root)
    except InputError:
        raise
    except Exception as error:
        # A config and the settings to override may have anything anywhere.
        raise ConfigError(
            f'{settings.config} cannot be used: {in_one_line(error)}.'
        ) from error
    data_sets: Dict[str, DataSet] = {}
    with without_logs():
        planned = [_plan_entry(base, entry, data_sets) for entry in entries]
    data = fingerprint_files(base, LOADERS)
    return [
        Training(
            one,
            seed,
            settings.out / one.entry.name / f'seed{seed}',
            _fingerprint(one.cfg, seed, data),
        )
        for seed in dict.fromkeys(settings.seeds)
        for one in planned
    ]


def base_config(settings: Settings) -> Config:
    """Read the study's config and make the settings' changes.

    Args:
        settings (Settings): What is studied.

    Returns:
        Config: With what all trainings of a study share.

    Raises:
        ConfigError: If it is not the config of such a study.
    """
    cfg = load_config(settings.config, settings.options)
    missing = [key for key in ('model', 'optim_wrapper', *LOADERS) if not cfg.get(key)]
    if missing:
        raise ConfigError(
            f'{settings.config} has no {missing[0]}: the config of a classifier and '
            'its training was expected.'
        )
    epochs = (cfg.get('train_cfg') or {}).get('max_epochs')
    if not epochs:
        raise ConfigError(
            f'{settings.config} does not train for epochs: set train_cfg.max_epochs.'
        )
    if not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(
            f'{settings.config} trains for {epochs} epochs: set train_cfg.max_epochs '
            'to a whole number from 1.'
        )
    if settings.epochs:
        set_epochs(cfg, settings.epochs)
    if settings.data_root:
        for loader in LOADERS:
            cfg[loader].dataset.data_root = settings.data_root
    for loader in LOADERS:
        for part in typed_dicts(cfg[loader].dataset):
            if type_of(part).startswith('CIFAR'):
                # mmpretrain would fetch what is missing without asking.
                part.setdefault('download', False)
    # The study tests at the end, and resumes from the last checkpoint: two are
    # kept, as the last one may be half written.
    cfg.train_cfg.val_begin = cfg.train_cfg.max_epochs + 1
    cfg.default_hooks = dict(
        cfg.get('default_hooks') or {},
        checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    )
    # None of it is used, and it does not change what is trained.
    for key in ('test_dataloader', 'test_cfg', 'test_evaluator', 'work_dir'):
        cfg.pop(key, None)
    return cfg


def _plan_entry(
    base: Config, entry: Entry, data_sets: Dict[str, DataSet]
) -> PlannedEntry:
    try:
        cfg = entry_config(base, entry)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        train, val = check_data_sets(cfg, LOADERS, data_sets)
        if entry.as_costly_as:
            model = entry_config(base, ENTRIES[entry.as_costly_as])
            widen(cfg, count_costs(model, val.shape)[1], val.shape)
        params, macs = count_costs(cfg, val.shape)
        # What else a config may have wrong, a runner would only find later.
        wrapper = build_optim_wrapper(build_model(cfg), cfg.optim_wrapper)
        for scheduler in schedulers(cfg):
            scheduler = copy.deepcopy(scheduler)
            if scheduler.get('by_epoch', True):
                scheduler.setdefault('end', cfg.train_cfg.max_epochs)
            PARAM_SCHEDULERS.build(
                scheduler, default_args=dict(optimizer=wrapper, epoch_length=1)
            )
        for hook in cfg.get('custom_hooks') or []:
            HOOKS.build(dict(hook))
    except ConfigError as error:
        raise ConfigError(f'Entry {entry.name} cannot be built: {error}') from error
    except InputError as error:
        raise InputError(f'Entry {entry.name} cannot be built: {error}') from error
    except Exception as error:
        # A config may make the code of any package raise anything.
        raise InputError(
            f'Entry {entry.name} cannot be built: {in_one_line(error)}'
        ) from error
    images = train.images * cfg.train_cfg.max_epochs
    return PlannedEntry(entry, cfg, params, macs, images)


@contextmanager
def without_logs() -> Iterator[None]:
    """Silence what MMEngine says of each parameter of each entry."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def _fingerprint(cfg: Config, seed: int, data: str) -> str:
    trained = copy.deepcopy({key: cfg.get(key) for key in _DECISIVE})
    for part in typed_dicts(trained):
        # Where the data is does not matter.
        part.pop('data_root', None)
    content = json.dumps([trained, seed, data], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
