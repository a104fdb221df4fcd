"""Count parameters and FLOPs of configs, or of all classifiers in the model index."""

import argparse
from pathlib import Path
from typing import Dict, List, Optional

from clone import ROOT
from rich.table import Table

from lab.zoo import Comparison, ZooModel, measure, read_zoo
from mmcdnv2.cli import (
    add_input_shape_argument,
    command_line,
    report_console,
    track_progress,
)

COLUMNS = (
    'params sparse',
    'condensed',
    'published',
    'diff.',
    'MACs sparse',
    'condensed',
    "papers' FLOPs",
    'published',
    'diff.',
    'notes',
)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'configs', nargs='*', help='config files (default: all classifiers)'
    )
    add_input_shape_argument(
        parser, "input size in pixels (default: size of each config's test data)"
    )
    return parser.parse_args()


def select(configs: List[str]) -> List[ZooModel]:
    """Return the models to count, with published figures for configs of the index."""
    zoo = read_zoo(ROOT)
    if not configs:
        return [model for model in zoo if model.task == 'Image Classification']
    # The same config may be in a clone and in an installation.
    places = {model.config.relative_to(ROOT).as_posix(): model for model in zoo}
    models = []
    for config in map(Path, configs):
        path = config.resolve().as_posix()
        found = [m for place, m in places.items() if path.endswith(f'/{place}')]
        published = found[0].published if found else None
        models.append(ZooModel(config.stem, config, task='', published=published))
    return models


def millions(count: int) -> str:
    """Format a count in millions."""
    return f'{count / 1e6:.3f}'


def published_cells(comparison: Optional[Comparison]) -> List[str]:
    """Format the published figure and the difference from it."""
    if comparison is None:
        return ['', '']
    return [comparison.printed, f'{comparison.difference:+.1%}']


def notes_on(model: ZooModel, compared: Dict[str, Comparison]) -> List[str]:
    """Return notes on the published figures: their source and why ours differ."""
    if model.published is None:
        return []
    notes = [f'Published figures: {model.published.by}.']
    if model.published.counting == 'macs' and 'flops' in compared:
        notes.append('The published FLOPs are MACs and are compared with ours.')
    notes += [text for name, text in model.published.notes.items() if name in compared]
    if any(c.rounds_to_printed and not c.is_near for c in compared.values()):
        notes.append('Our figure is equal after rounding to the published digits.')
    return notes


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Count and print a table."""
    models = select(args.configs)
    shape = args.input_shape and tuple(args.input_shape)
    table = Table(title='Parameters and FLOPs in millions, batch 1')
    table.add_column('', overflow='fold')
    for column in ('input', *COLUMNS):
        table.add_column(column, justify='right', overflow='fold')
    footnotes: List[str] = []
    console = report_console(200)
    for model in track_progress(models, 'Counting'):
        cost = measure(model.config, shape)
        # Published figures hold only for the default input size.
        compared = (
            model.published.compare(cost) if model.published and not shape else {}
        )
        notes = notes_on(model, compared) if not shape else []
        footnotes += [note for note in notes if note not in footnotes]
        table.add_row(
            model.name,
            'x'.join(map(str, cost.input_shape)),
            *map(millions, cost.params),
            *published_cells(compared.get('params')),
            *map(millions, cost.macs),
            millions(cost.paper_flops[1]),
            *published_cells(compared.get('flops')),
            ' '.join(map(str, sorted(footnotes.index(note) + 1 for note in notes))),
        )
    console.print(table)
    console.print(
        "MACs: convolutions and linear layers. Papers' FLOPs (condensed): MACs plus "
        'elements of activations and average poolings.'
    )
    for number, note in enumerate(footnotes, 1):
        console.print(f'{number}: {note}')


if __name__ == '__main__':
    main()
