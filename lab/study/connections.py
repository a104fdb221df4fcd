"""How far back the layers of the study's networks read (paper, Fig. 7)."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from torch import nn

from mmcdnv2.builder import build_model
from mmcdnv2.checkpoint import load_checkpoint, load_weights, weights_of
from mmcdnv2.errors import InputError
from mmcdnv2.files import replace_when_done
from mmcdnv2.layers import sparse_layers

from ..connection_maps import block_maps, lgc_chains, measure_use
from ..connection_maps.source_use import EARLY_USE, QUANTITIES
from .costs import is_pruned
from .grid import COMPARISONS
from .plan import Settings, Training, plan_study, without_logs
from .report import Difference, compare_seeds
from .results import last_checkpoint
from .run import Outcome, finished
from .tables import DIFFERENCE_COLUMNS, table_lines

# Networks of each entry that are pruned without training, to see what chance does.
UNTRAINED = 5
DIFFERENCES_TITLE = 'Early use, with SFR less without'
USE_COLUMNS = ('entry', 'weights', *QUANTITIES)
NOTE = (
    'How strongly the LGCs read, relative to the mean over all that a layer reads, by '
    'how many layers before it was computed; the input is the stem. Early use: of the '
    'first third of the layers by the last third. Mean ± standard deviation over '
    'networks; those without training are pruned like the others. Differences: of '
    'early use, with SFR less without, seed by seed, mean ± standard error. Level: a '
    't-test of the pairs does not tell it from 0 at 95 %.'
)

# What a network's layers read, by the names in QUANTITIES.
Numbers = Dict[str, Optional[float]]


@dataclass(frozen=True)
class EntryUse:
    """What the networks of an entry read.

    Attributes:
        name (str): Name of the entry.
        has_sfr (bool): Whether its networks have SFR.
        trained (dict[int, Numbers]): Of each training by its seed.
        untrained (dict[int, Numbers]): Of networks without training, pruned as
            far as the trained ones, by the seed of their weights.
    """

    name: str
    has_sfr: bool
    trained: Dict[int, Numbers]
    untrained: Dict[int, Numbers]


@dataclass(frozen=True)
class Connections:
    """What the networks of a study read.

    Attributes:
        data (str): Name of the study's config.
        epochs (int): Epochs of each training.
        entries (tuple[EntryUse]): Those with finished trainings.
        differences (tuple[Difference]): Of early use between entries with and
            without SFR that the study compares.
        left_out (tuple[str]): Names of entries whose networks are not one
            chain of dense blocks with LGCs.
    """

    data: str
    epochs: int
    entries: Tuple[EntryUse, ...]
    differences: Tuple[Difference, ...]
    left_out: Tuple[str, ...]


def study_connections(settings: Settings) -> Connections:
    """Measure the finished trainings; write ``connections.json`` and ``.md``.

    Args:
        settings (Settings): As those of :func:`~lab.study.study.run_study`.

    Returns:
        Connections: What it came to.

    Raises:
        InputError: If the settings cannot be used, no network can be measured,
            or a checkpoint is missing.
    """
    trainings = plan_study(settings)
    connections = measure_connections(
        Path(settings.config).stem, trainings, finished(trainings)
    )
    with replace_when_done(settings.out / 'connections.json') as path:
        path.write_text(json.dumps(asdict(connections), indent=1) + '\n')
    with replace_when_done(settings.out / 'connections.md') as path:
        path.write_text('\n'.join(_markdown(connections)) + '\n')
    return connections


def measure_connections(
    data: str, trainings: Sequence[Training], outcome: Outcome
) -> Connections:
    """Measure what networks read, with and without training.

    Args:
        data (str): Name of the study's config.
        trainings (Sequence[Training]): All of the study.
        outcome (Outcome): What became of them. Those that diverged or have no
            result are left out.

    Returns:
        Connections: Of the others.

    Raises:
        InputError: If there are none, or a checkpoint is missing.
    """
    grouped: Dict[str, List[Training]] = {}
    for training in trainings:
        result = outcome.results.get(training.name)
        if result and not result.diverged:
            grouped.setdefault(training.planned.entry.name, []).append(training)
    measured: Dict[str, EntryUse] = {}
    left_out = []
    for name, group in grouped.items():
        use = _measure_entry(name, group)
        if use:
            measured[name] = use
        else:
            left_out.append(name)
    if not measured:
        raise InputError(
            'No training of a network whose dense blocks have LGCs is finished with '
            'these settings: train one first, or name the settings it was trained with.'
        )
    return Connections(
        data=data,
        epochs=trainings[0].planned.cfg.train_cfg.max_epochs,
        entries=tuple(measured.values()),
        differences=tuple(_differences(measured)),
        left_out=tuple(left_out),
    )


def _measure_entry(name: str, trainings: List[Training]) -> Optional[EntryUse]:
    cfg = trainings[0].planned.cfg
    model = build_model(cfg)
    blocks = block_maps(model)
    if len(lgc_chains(blocks)) != 1:
        return None
    trained = {}
    for training in trainings:
        checkpoint = last_checkpoint(training.folder)
        if checkpoint is None:
            raise InputError(
                f'{training.folder} has no checkpoint: remove the folder and train '
                'again, or leave out its entry or seed.'
            )
        load_weights(model, weights_of(load_checkpoint(checkpoint)), checkpoint)
        trained[training.seed] = _measure(model)
    return EntryUse(
        name=name,
        has_sfr=any(block.kind == 'SFR' for block in blocks),
        trained=trained,
        untrained={seed: _measure(untrained(cfg, seed)) for seed in range(UNTRAINED)},
    )


def _measure(model: nn.Module) -> Numbers:
    (chain,) = lgc_chains(block_maps(model))
    return measure_use(chain)


def untrained(cfg: Config, seed: int) -> nn.Module:
    """Build a network as a training begins with it, and prune it as one does.

    Args:
        cfg (Config): Config of a classifier and its training.
        seed (int): Seed of its weights.

    Returns:
        nn.Module: Pruned to the end if the training prunes.
    """
    with torch.random.fork_rng(devices=[]), without_logs():
        torch.manual_seed(seed)
        model = build_model(cfg)
        model.init_weights()
    if is_pruned(cfg):
        for layer in sparse_layers(model).values():
            layer.set_progress(1)
    return model


def _differences(entries: Dict[str, EntryUse]) -> List[Difference]:
    """Compare those with SFR and those without that the study compares."""
    found: Dict[Tuple[str, str], Optional[Difference]] = {}
    for comparison in COMPARISONS:
        for pair in comparison.pairs(entries):
            with_sfr, without = sorted(
                (entries[name] for name in pair), key=lambda use: not use.has_sfr
            )
            if with_sfr.has_sfr and not without.has_sfr:
                names = (with_sfr.name, without.name)
                numbers = _by_seed(with_sfr.trained, EARLY_USE)
                references = _by_seed(without.trained, EARLY_USE)
                found[names] = compare_seeds(
                    names, numbers, references, ('less', 'more')
                )
    return [difference for difference in found.values() if difference]


def _by_seed(numbers: Dict[int, Numbers], quantity: str) -> Dict[int, float]:
    """Choose a quantity, where it is a number."""
    found = {seed: one[quantity] for seed, one in numbers.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def use_cells(connections: Connections) -> List[List[str]]:
    """Format what is read for a table.

    Args:
        connections (Connections): The study's.

    Returns:
        list[list[str]]: Two lines for each entry, of ``USE_COLUMNS``.
    """
    lines = []
    for use in connections.entries:
        for kind, numbers in (('trained', use.trained), ('untrained', use.untrained)):
            cells = [_mean_text(_by_seed(numbers, key)) for key in QUANTITIES]
            lines.append([use.name, f'{len(numbers)} {kind}', *cells])
    return lines


def early_use_cells(connections: Connections) -> List[List[str]]:
    """Format the differences of early use for a table.

    Args:
        connections (Connections): The study's.

    Returns:
        list[list[str]]: A line for each, of ``DIFFERENCE_COLUMNS``.
    """
    return [
        [one.entry, one.reference, one.text, str(one.pairs), one.verdict]
        for one in connections.differences
    ]


def _mean_text(values: Dict[int, float]) -> str:
    if not values:
        return '-'
    text = f'{statistics.mean(values.values()):.2f}'
    if len(values) > 1:
        text += f' ± {statistics.stdev(values.values()):.2f}'
    return text


def connections_heading(connections: Connections) -> str:
    """Say in a line what was measured."""
    data, epochs = connections.data, connections.epochs
    return f'Connections of the study on {data}: {epochs} epochs'


def remarks(connections: Connections) -> List[str]:
    """Say what the tables mean and which entries they lack.

    Args:
        connections (Connections): The study's.

    Returns:
        list[str]: Paragraphs.
    """
    if not connections.left_out:
        return [NOTE]
    names = ', '.join(connections.left_out)
    return [NOTE, f'No such numbers, as there are no LGCs in dense blocks: {names}.']


def _markdown(connections: Connections) -> List[str]:
    lines = [f'# {connections_heading(connections)}', '']
    lines += table_lines(USE_COLUMNS, use_cells(connections))
    for remark in remarks(connections):
        lines += ['', remark]
    lines += ['', f'## {DIFFERENCES_TITLE}', '']
    return [*lines, *table_lines(DIFFERENCE_COLUMNS, early_use_cells(connections))]
