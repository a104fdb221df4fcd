"""Condense a trained classifier or detector for deployment."""

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from mmcdnv2.cli import add_input_shape_argument, add_trust_argument, command_line
from mmcdnv2.deploy import CondenseReport, condense_checkpoint
from mmcdnv2.files import check_writable, replace_when_done


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of the sparse model')
    parser.add_argument('checkpoint', help='its checkpoint, finished sparsification')
    parser.add_argument('out_dir', help='folder for the condensed config and weights')
    parser.add_argument('--image', help='image to compare on (default: random pixels)')
    add_input_shape_argument(
        parser, "input size in pixels (default: size of the config's test data)"
    )
    parser.add_argument('--json', help='also write the report to this file')
    add_trust_argument(parser)
    return parser.parse_args()


def show(report: CondenseReport) -> None:
    """Print the report as a table."""
    height, width = report.input_shape
    table = Table(title=f'Input {height}x{width}, batch 1')
    for column in ('', 'sparse', 'condensed', 'ratio'):
        table.add_column(column, justify='right' if column else 'left')
    rows = (
        ('params', 'Parameters (M)', 1e6, '.3f'),
        ('macs', 'MACs (M)', 1e6, '.1f'),
        ('backbone_macs', 'Backbone MACs (M)', 1e6, '.1f'),
        ('megabytes', 'Checkpoint (MB)', 1, '.2f'),
        ('latency', 'Latency (ms)', 1, '.1f'),
        ('backbone_latency', 'Backbone latency (ms)', 1, '.1f'),
    )
    missing = []
    for attribute, title, unit, spec in rows:
        if attribute in report.unmeasured:
            missing.append(f'{title}: not measured, {report.unmeasured[attribute]}')
            continue
        before, after = getattr(report, attribute)
        table.add_row(
            title,
            format(before / unit, spec),
            format(after / unit, spec),
            f'{after / before:.2f}',
        )
    console = Console()
    console.print(table)
    for line in missing:
        console.print(line, markup=False, soft_wrap=True)
    for path in sorted(set(report.runs_on.values())):
        parts = [name for name, on in report.runs_on.items() if on == path]
        console.print(f'Runs on {path}: {", ".join(parts)}', soft_wrap=True)
    console.print(
        f'Compared: {", ".join(report.compared)}\n'
        f'Largest relative difference of an output: {report.max_difference:.1e}\n'
        f'Config:     {report.config}\nCheckpoint: {report.checkpoint}',
        soft_wrap=True,
    )


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Condense the model and print the report."""
    if args.json:
        check_writable(args.json)
    report = condense_checkpoint(
        args.config,
        args.checkpoint,
        args.out_dir,
        args.image,
        args.input_shape and tuple(args.input_shape),
        args.trust_checkpoint,
    )
    show(report)
    if args.json:
        with replace_when_done(args.json) as path:
            path.write_text(json.dumps(asdict(report), indent=2, default=str) + '\n')


if __name__ == '__main__':
    main()
