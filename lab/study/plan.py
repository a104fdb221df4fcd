"""Plan a study's training runs and check them before training."""

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmcdnv2.config import load_config, type_of, typed_dicts
from mmcdnv2.errors import ConfigError, InputError, in_one_line
from mmcdnv2.version import __version__

from .costs import count_costs, widen
from .data import DataSet, check_data_sets, count_bytes, make_missing_data
from .grid import ENTRIES, Entry, select_entries
from .recipes import LOADERS, entry_config, set_epochs


@dataclass(frozen=True)
class Settings:
    """Settings of a study.

    Attributes:
        config (str): Config file of a CondenseNetV2 classifier; all entries
            share its data and recipe.
        out (Path): Folder for the runs and the report.
        entries (tuple[str]): Names of entries; empty for all.
        seeds (tuple[int]): Seeds to train each entry with.
        epochs (int, optional): Epochs per run. Defaults to the config's.
        data_root (str, optional): Data folder. Defaults to the config's.
        options (dict): Config settings to override, by dotted keys.
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
            raise InputError('A study needs at least one seed, and none below 0.')
        if self.epochs is not None and self.epochs < 1:
            raise InputError('A training run needs at least one epoch.')


@dataclass(frozen=True)
class Run:
    """A training run: an entry with a seed.

    Attributes:
        entry (Entry): Network and recipe.
        seed (int): Seed of all randomness.
        folder (Path): MMEngine's work dir.
        cfg (Config): Config without the seed.
        params (int): Parameters, condensed.
        macs (int): MACs per image, condensed.
        images (int): Training images in all epochs.
        config_text (str): Content of the config file.
    """

    entry: Entry
    seed: int
    folder: Path
    cfg: Config
    params: int
    macs: int
    images: int
    config_text: str

    @property
    def name(self) -> str:
        """str: Entry and seed."""
        return f'{self.entry.name}, seed {self.seed}'

    @property
    def config_file(self) -> Path:
        """Path: Config file, outside of the work dir: MMEngine writes its own there."""
        return self.folder.with_suffix('.py')

    @property
    def epochs(self) -> int:
        """int: Number of epochs."""
        return self.cfg.train_cfg.max_epochs

    @property
    def checkpoint(self) -> Path:
        """Path: Checkpoint of the last epoch."""
        return self.folder / f'epoch_{self.epochs}.pth'


def plan_study(settings: Settings) -> List[Run]:
    """Plan the runs of a study, check that they can be trained, and train nothing.

    Returns:
        list[Run]: All entries with the first seed, then with the second and so
        on: an interrupted study contains whole comparisons.

    Raises:
        InputError: If an entry is unknown or cannot be built, or data is missing
            or does not fit the config.
    """
    entries = select_entries(settings.entries)
    base = base_config(settings)
    make_missing_data(base, settings.data_root)
    data_sets: Dict[str, DataSet] = {}
    size = count_bytes(base, LOADERS)
    planned = []
    with without_logs():
        for entry in entries:
            planned.append(_plan_entry(settings, base, entry, data_sets, size))
    return [run for by_seed in zip(*planned) for run in by_seed]


def base_config(settings: Settings) -> Config:
    """Return the config that all entries share.

    Raises:
        ConfigError: If it is no config of a classifier and its training.
    """
    cfg = load_config(settings.config, settings.options)
    missing = [key for key in ('model', 'optim_wrapper', *LOADERS) if not cfg.get(key)]
    if missing:
        raise ConfigError(
            f'{settings.config} has no {missing[0]}: expected the config of a '
            'classifier and its training.'
        )
    epochs = (cfg.get('train_cfg') or {}).get('max_epochs')
    if not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(
            f'{settings.config} trains for {epochs} epochs: set train_cfg.max_epochs '
            'to a whole number from 1.'
        )
    if settings.epochs:
        set_epochs(cfg, settings.epochs)
    for loader in LOADERS:
        if settings.data_root:
            cfg[loader].dataset.data_root = settings.data_root
        for part in typed_dicts(cfg[loader].dataset):
            if type_of(part).startswith('CIFAR'):
                # mmpretrain downloads missing data by default.
                part.setdefault('download', False)
    # Test once, after the last epoch, by top-1 accuracy. Keep two checkpoints:
    # the run resumes from the one before if the test was interrupted.
    cfg.train_cfg.val_begin = 1
    cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs
    cfg.val_cfg = dict()
    cfg.val_evaluator = dict(type='mmpretrain.Accuracy', topk=1)
    cfg.default_hooks = dict(
        cfg.get('default_hooks') or {},
        checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    )
    unused = ('test_dataloader', 'test_cfg', 'test_evaluator', 'work_dir', 'resume')
    for key in (*unused, 'randomness'):
        cfg.pop(key, None)
    return cfg


def _plan_entry(
    settings: Settings,
    base: Config,
    entry: Entry,
    data_sets: Dict[str, DataSet],
    size: int,
) -> List[Run]:
    """Plan an entry's runs, one per seed."""
    try:
        cfg = entry_config(base, entry)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        train, val = check_data_sets(cfg, LOADERS, data_sets)
        if entry.match_macs:
            model = entry_config(base, ENTRIES[entry.match_macs])
            widen(cfg, count_costs(model, val.shape)[1], val.shape)
        params, macs = count_costs(cfg, val.shape)
    except InputError as error:
        raise type(error)(f'Entry {entry.name} cannot be built: {error}') from error
    except Exception as error:
        # A config may make the code of any package raise anything.
        raise InputError(
            f'Entry {entry.name} cannot be built: {in_one_line(error)}'
        ) from error
    # Results of other code or data have another config, so they are not reused.
    cfg.study = dict(
        mmcdnv2=__version__,
        torch=torch.__version__,
        images=[train.images, val.images],
        bytes=size,
    )
    text = cfg.pretty_text
    return [
        Run(
            entry=entry,
            seed=seed,
            folder=settings.out / entry.name / f'seed{seed}',
            cfg=cfg,
            params=params,
            macs=macs,
            images=train.images * cfg.train_cfg.max_epochs,
            config_text=f'{text}randomness = dict(seed={seed})\n',
        )
        for seed in dict.fromkeys(settings.seeds)
    ]


@contextmanager
def without_logs() -> Iterator[None]:
    """Silence MMEngine, which logs every parameter of every network."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
