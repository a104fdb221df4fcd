"""Draw the connections of a checkpoint's sparse layers and their strengths.

Also prints how strongly the layers of dense blocks read features by distance.
"""

import argparse
from typing import List, Optional

import clone  # noqa: F401
from rich.markup import escape
from rich.table import Table

from lab.connection_maps import lgc_chains, measure_use
from lab.connection_maps.block_map import BlockMap
from lab.connection_maps.plot import draw_connection_maps
from lab.connection_maps.source_use import QUANTITIES
from mmcdnv2.cli import add_trust_argument, command_line, report_console


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of the model')
    parser.add_argument('checkpoint', help='its checkpoint, sparse or condensed')
    parser.add_argument('--out', required=True, help='image file to write')
    parser.add_argument(
        '--compare',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='draw a second model next to it',
    )
    add_trust_argument(parser)
    return parser.parse_args()


def number(value: Optional[float]) -> str:
    """Format a relative strength."""
    return '-' if value is None else f'{value:.2f}'


def show(names: List[str], models: List[List[BlockMap]]) -> None:
    """Print how far back the models' layers read."""
    table = Table(
        title='Mean |w| of the LGCs by distance to the source in layers',
        caption='Relative to the mean over the sources of a layer. Early use: of the '
        'first third of the layers by the last third.',
    )
    for column in ('model', 'layers'):
        table.add_column(column, overflow='fold')
    for column in QUANTITIES:
        table.add_column(column, justify='right')
    without = []
    for name, blocks in zip(names, models):
        chains = lgc_chains(blocks)
        for chain in chains:
            layers = [layer.label for block in chain for layer in block.layers]
            span = f'{layers[0]} to {layers[-1]}'
            values = map(number, measure_use(chain).values())
            table.add_row(escape(name), span, *values)
        if not chains:
            without.append(name)
    console = report_console(160)
    if table.rows:
        console.print(table)
    for name in without:
        console.print(
            f'{name} has no LGCs in dense blocks, so there is no table for it.',
            markup=False,
        )


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Draw the maps and print the table."""
    models = [(args.config, args.checkpoint)]
    if args.compare:
        models.append(tuple(args.compare))
    maps = draw_connection_maps(models, args.out, args.trust_checkpoint)
    show([checkpoint for _, checkpoint in models], maps)


if __name__ == '__main__':
    main()
