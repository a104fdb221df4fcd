"""Measure how far back the layers of the study's networks read (paper, Fig. 7)."""

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

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
from .plan import Run, Settings, plan_study, without_logs
from .report import Difference, compare_seeds
from .run import read_results
from .tables import Table, difference_table

# Untrained networks per entry, pruned to show the effect of chance.
UNTRAINED = 5
NOTE = (
    'Strength with which LGCs read a source, relative to the mean over all sources of '
    'a layer, by the number of layers between them; the input is the stem. Early use: '
    'of the first third of the layers by the last third. Mean ± standard deviation '
    'over networks; untrained ones are pruned like the others.'
)
DIFFERENCES_NOTE = (
    'Paired by seed, mean ± standard error. Level: a paired t-test finds no difference '
    'at 95 %.'
)

# Numbers of a network by their names in QUANTITIES.
Numbers = Dict[str, Optional[float]]


@dataclass(frozen=True)
class EntryUse:
    """Sources that the networks of an entry read.

    Attributes:
        name (str): Name of the entry.
        has_sfr (bool): Whether its networks have SFR.
        trained (dict[int, Numbers]): Numbers of each run by seed.
        untrained (dict[int, Numbers]): Numbers of untrained networks, pruned as
            far as the trained ones, by the seed of their weights.
    """

    name: str
    has_sfr: bool
    trained: Dict[int, Numbers]
    untrained: Dict[int, Numbers]


@dataclass(frozen=True)
class Connections:
    """Sources that the networks of a study read.

    Attributes:
        data (str): Name of the study's config.
        epochs (int): Epochs per run.
        entries (tuple[EntryUse]): Entries with finished runs.
        differences (tuple[Difference]): Of early use, between compared entries
            with and without SFR.
        left_out (tuple[str]): Names of entries whose networks are not one chain
            of dense blocks with LGCs.
    """

    data: str
    epochs: int
    entries: Tuple[EntryUse, ...]
    differences: Tuple[Difference, ...]
    left_out: Tuple[str, ...]


def study_connections(settings: Settings) -> Connections:
    """Measure the finished runs; write ``connections.json`` and ``.md``.

    Runs that diverged are left out.

    Raises:
        InputError: If the settings cannot be used, no network can be measured,
            or a checkpoint is missing.
    """
    runs = plan_study(settings)
    results = read_results(runs)
    grouped: Dict[str, List[Run]] = {}
    for run in runs:
        if run.name in results and not results[run.name].diverged:
            grouped.setdefault(run.entry.name, []).append(run)
    found = {name: _measure_entry(name, group) for name, group in grouped.items()}
    measured = {name: use for name, use in found.items() if use}
    if not measured:
        raise InputError(
            'No run of a network whose dense blocks have LGCs is finished with these '
            'settings: train one first, or give the settings it was trained with.'
        )
    connections = Connections(
        data=Path(settings.config).stem,
        epochs=runs[0].epochs,
        entries=tuple(measured.values()),
        differences=tuple(_differences(measured)),
        left_out=tuple(name for name, use in found.items() if not use),
    )
    with replace_when_done(settings.out / 'connections.json') as path:
        path.write_text(json.dumps(asdict(connections), indent=1) + '\n')
    uses, differences = connection_tables(connections)
    lines = [*uses.markdown(1), *differences.markdown(2)]
    with replace_when_done(settings.out / 'connections.md') as path:
        path.write_text('\n'.join(lines))
    return connections


def _measure_entry(name: str, runs: List[Run]) -> Optional[EntryUse]:
    cfg = runs[0].cfg
    model = build_model(cfg)
    blocks = block_maps(model)
    if len(lgc_chains(blocks)) != 1:
        return None
    trained = {}
    for run in runs:
        weights = weights_of(load_checkpoint(run.checkpoint))
        load_weights(model, weights, run.checkpoint)
        trained[run.seed] = _measure(model)
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
    """Initialise a network, and prune it if its training does.

    Args:
        cfg (Config): Config of a classifier and its training.
        seed (int): Seed of the weights.
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
    """Compare entries with SFR to those without, in the pairs of the comparisons."""
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
    """Select a quantity, where it is a number."""
    found = {seed: one[quantity] for seed, one in numbers.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def connection_tables(connections: Connections) -> List[Table]:
    """Return a table of the networks and one of the differences of early use."""
    rows = []
    for use in connections.entries:
        for kind, numbers in (('trained', use.trained), ('untrained', use.untrained)):
            cells = [_mean_text(_by_seed(numbers, key)) for key in QUANTITIES]
            rows.append([use.name, f'{len(numbers)} {kind}', *cells])
    title = f'Connections of the study on {connections.data}'
    text = NOTE
    if connections.left_out:
        names = ', '.join(connections.left_out)
        text += f' Left out, as their dense blocks have no LGCs: {names}.'
    columns = ('entry', 'weights', *QUANTITIES)
    return [
        Table(f'{title}: {connections.epochs} epochs', text, columns, rows),
        difference_table(
            'Early use: with SFR minus without',
            DIFFERENCES_NOTE,
            connections.differences,
        ),
    ]


def _mean_text(values: Dict[int, float]) -> str:
    if not values:
        return '-'
    text = f'{statistics.mean(values.values()):.2f}'
    if len(values) > 1:
        text += f' ± {statistics.stdev(values.values()):.2f}'
    return text
