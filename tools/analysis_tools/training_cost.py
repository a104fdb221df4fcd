"""Measure a training step's time and memory, also with the authors' structure."""

import argparse
import json
from dataclasses import asdict

from clone import ROOT
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lab.benchmark.training_cost import (
    VARIANTS,
    TrainingSetup,
    measure_training,
)
from mmcdnv2.cli import add_input_shape_argument, command_line
from mmcdnv2.files import check_writable, replace_when_done

CONFIG = ROOT / 'configs' / 'cdnv2_c_8xb128_in1k.py'


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        nargs='?',
        default=str(CONFIG),
        help='config file with a CondenseNetV2 (default: the classifier C)',
    )
    parser.add_argument(
        '--part',
        choices=('classifier', 'backbone'),
        default='classifier',
        help='part to train; for detectors only the backbone',
    )
    parser.add_argument('--batch', type=int, default=16, help='images (default: 16)')
    add_input_shape_argument(
        parser, 'their size in pixels (default: 224 224)', (224, 224)
    )
    parser.add_argument('--threads', type=int, default=1, help='default: 1')
    parser.add_argument(
        '--rounds',
        type=int,
        default=3,
        help='timed steps per variant (default: 3), each after an untimed step',
    )
    parser.add_argument(
        '--channels-last',
        action='store_true',
        help='use the channels-last format for all variants, as ChannelsLastHook',
    )
    parser.add_argument('--json', help='also write the results to this file')
    return parser.parse_args()


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Measure the variants and print a table."""
    shape = tuple(args.input_shape)
    setup = TrainingSetup(
        args.config, args.part, args.batch, shape, args.threads, args.channels_last
    )
    if args.json:
        check_writable(args.json)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        total = (2 * args.rounds + 1) * len(VARIANTS)
        task = progress.add_task('Training', total=total)
        costs = measure_training(setup, args.rounds, lambda: progress.advance(task))
    if args.json:
        report = dict(setup=asdict(setup), costs=[asdict(cost) for cost in costs])
        with replace_when_done(args.json) as partial:
            partial.write_text(json.dumps(report, indent=2) + '\n')
    size = 'x'.join(map(str, shape))
    table = Table(
        title=f'A training step of the {setup.part}, {setup.batch} x {size}, '
        f'{setup.threads} thread(s)'
    )
    table.add_column('')
    for column in ('ms', 'images/s', 'peak MB', 'time', 'memory'):
        table.add_column(column, justify='right')
    authors = costs[-1]
    for cost in costs:
        table.add_row(
            cost.variant,
            f'{cost.milliseconds:.0f}',
            f'{cost.images_per_second:.2f}',
            f'{cost.peak_megabytes:.0f}',
            f'{cost.milliseconds / authors.milliseconds:.2f}x',
            f'{cost.peak_megabytes / authors.peak_megabytes:.2f}x',
        )
    console = Console()
    console.print(table)
    console.print(
        "The last two columns are relative to the authors' structure. Memory: tensors "
        'of the step, without weights and momentum.'
    )


if __name__ == '__main__':
    main()
