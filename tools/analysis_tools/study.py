"""Train a grid of small networks with several seeds and compare their errors."""

import argparse
import sys
from pathlib import Path

from clone import ROOT
from mmengine.config import DictAction
from rich.console import Console
from rich.table import Table

from lab.study import (
    ENTRIES,
    QUICK,
    Connections,
    ProgressDisplay,
    Report,
    Settings,
    report_study,
    run_study,
    study_connections,
)
from lab.study.connections import (
    DIFFERENCES_TITLE,
    USE_COLUMNS,
    connections_heading,
    early_use_cells,
    remarks,
    use_cells,
)
from lab.study.tables import (
    DIFFERENCE_COLUMNS,
    ENTRY_COLUMNS,
    NOTE,
    difference_cells,
    entry_cells,
    heading,
)
from mmcdnv2.cli import command_line, report_console
from mmcdnv2.errors import InputError

CONFIG = ROOT / 'configs' / 'study' / 'digits.py'


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--config', default=str(CONFIG), help='data and recipe (default: digits)'
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help=f'use {", ".join(QUICK)}, two seeds and two epochs as defaults',
    )
    parser.add_argument(
        '--entries',
        nargs='+',
        metavar='ENTRY',
        help=f'entries to train (default: all): {", ".join(ENTRIES)}',
    )
    parser.add_argument('--seeds', type=int, nargs='+', help='default: 0 1 2')
    parser.add_argument('--epochs', type=int, help="default: the config's")
    parser.add_argument(
        '--jobs', type=int, help='parallel training runs (default: one per core)'
    )
    parser.add_argument('--data-root', help="folder of the data (default: config's)")
    parser.add_argument(
        '--out',
        type=Path,
        help='output folder (default: work_dirs/study/CONFIG_NAME)',
    )
    parser.add_argument(
        '--report-only',
        action='store_true',
        help='do not train; report the finished runs',
    )
    parser.add_argument(
        '--connections',
        action='store_true',
        help='do not train; measure how far back the layers of finished runs read',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='config settings to override for all entries, key=value ...',
    )
    return parser.parse_args()


def show(report: Report) -> None:
    """Print the report as tables."""
    console = report_console(160)
    table = Table(title=heading(report))
    for column in ENTRY_COLUMNS:
        table.add_column(column)
    for cells in entry_cells(report):
        table.add_row(*cells)
    console.print(table)
    for number, section in enumerate(report.sections):
        table = Table(title=section.comparison.title, caption=section.comparison.claim)
        for column in DIFFERENCE_COLUMNS:
            table.add_column(column)
        for cells in difference_cells(report, number):
            table.add_row(*cells)
        console.print(table)
    console.print(NOTE)


def show_connections(connections: Connections) -> None:
    """Print how far back the networks' layers read."""
    console = report_console(160)
    table = Table(title=connections_heading(connections))
    for column in USE_COLUMNS:
        table.add_column(column)
    for cells in use_cells(connections):
        table.add_row(*cells)
    console.print(table)
    if connections.differences:
        table = Table(title=DIFFERENCES_TITLE)
        for column in DIFFERENCE_COLUMNS:
            table.add_column(column)
        for cells in early_use_cells(connections):
            table.add_row(*cells)
        console.print(table)
    for remark in remarks(connections):
        console.print(remark)


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Train the entries and report."""
    name = Path(args.config).stem + ('_quick' if args.quick else '')
    settings = Settings(
        config=args.config,
        out=args.out or Path('work_dirs') / 'study' / name,
        entries=tuple(args.entries or (QUICK if args.quick else ())),
        seeds=tuple(args.seeds or ((0, 1) if args.quick else (0, 1, 2))),
        epochs=2 if args.quick and args.epochs is None else args.epochs,
        data_root=args.data_root,
        options=args.cfg_options,
    )
    if args.report_only:
        show(report_study(settings))
    if args.connections:
        show_connections(study_connections(settings))
        print(f'Written to {settings.out}: connections.md, connections.json')
    if args.report_only or args.connections:
        return
    try:
        with ProgressDisplay(Console(stderr=True)) as progress:
            report = run_study(settings, args.jobs, progress)
    except KeyboardInterrupt:
        print(
            f'Interrupted: {settings.out} keeps what is trained; run the same command '
            'again to continue.',
            file=sys.stderr,
        )
        sys.exit(130)
    show(report)
    names = ['study.md', 'study.json']
    # Without comparisons there is no plot.
    if (settings.out / 'study.png').exists():
        names.append('study.png')
    print(f'Written to {settings.out}: {", ".join(names)}')
    if report.failures:
        name, reason = next(iter(report.failures.items()))
        raise InputError(
            f'{len(report.failures)} training runs failed; the same command runs only '
            f'these again. The first is {name}: {reason}'
        )


if __name__ == '__main__':
    main()
