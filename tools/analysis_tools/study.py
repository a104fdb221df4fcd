"""Train a grid of small networks with several seeds and compare their errors."""

import argparse
import sys
from pathlib import Path
from typing import Iterable, List, Optional

from clone import ROOT
from mmengine.config import DictAction
from rich.table import Table

from lab.study import (
    ENTRIES,
    QUICK,
    Connections,
    Report,
    Settings,
    report_study,
    run_study,
    study_connections,
)
from lab.study.connections import DIFFERENCES_TITLE, USE_COLUMNS
from lab.study.tables import DIFFERENCE_COLUMNS, ENTRY_COLUMNS, NOTE, entry_cells
from mmcdnv2.cli import command_line, report_console
from mmcdnv2.errors import InputError

CONFIG = ROOT / 'configs' / 'study' / 'digits.py'


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--config', default=str(CONFIG), help='data and recipe (default: the digits)'
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help=f'{", ".join(QUICK)}, two seeds and two epochs, unless given',
    )
    parser.add_argument(
        '--entries',
        nargs='+',
        metavar='ENTRY',
        help=f'networks to train (default: all): {", ".join(ENTRIES)}',
    )
    parser.add_argument('--seeds', type=int, nargs='+', help='default: 0 1 2')
    parser.add_argument('--epochs', type=int, help="default: the config's")
    parser.add_argument('--jobs', type=int, help='runs at once (default: one per core)')
    parser.add_argument('--data-root', help="data folder (default: the config's)")
    parser.add_argument(
        '--out',
        type=Path,
        help='output folder (default: work_dirs/study/CONFIG_NAME)',
    )
    parser.add_argument(
        '--report-only',
        action='store_true',
        help='train nothing, report the finished runs',
    )
    parser.add_argument(
        '--connections',
        action='store_true',
        help='train nothing, measure how far back the trained layers read',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        help='config settings to override for all entries, key=value ...',
    )
    return parser.parse_args()


def print_table(
    title: str,
    columns: Iterable[str],
    rows: List[List[str]],
    caption: Optional[str] = None,
) -> None:
    """Print a table."""
    table = Table(*columns, title=title, caption=caption)
    for cells in rows:
        table.add_row(*cells)
    report_console(160).print(table)


def show(report: Report) -> None:
    """Print a report."""
    title = f'Study on {report.heading}'
    print_table(title, ENTRY_COLUMNS, entry_cells(report))
    for section in report.sections:
        title, claim = section.comparison.title, section.comparison.claim
        cells = [one.cells for one in section.differences]
        print_table(title, DIFFERENCE_COLUMNS, cells, claim)
    report_console(160).print(NOTE)


def show_connections(connections: Connections) -> None:
    """Print how far back the networks' layers read."""
    print_table(connections.heading, USE_COLUMNS, connections.cells)
    if connections.differences:
        cells = [one.cells for one in connections.differences]
        print_table(DIFFERENCES_TITLE, DIFFERENCE_COLUMNS, cells)
    for remark in connections.remarks:
        report_console(160).print(remark)


def log(line: str) -> None:
    """Print progress to the standard error."""
    print(line, file=sys.stderr, flush=True)


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Study."""
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
        report = run_study(settings, args.jobs, log)
    except KeyboardInterrupt:
        log(f'Interrupted. {settings.out} keeps the runs: the same command continues.')
        sys.exit(130)
    show(report)
    names = ['study.md', 'study.json']
    # Without a comparison there is no plot.
    if (settings.out / 'study.png').exists():
        names.append('study.png')
    print(f'Written to {settings.out}: {", ".join(names)}')
    if report.failures:
        name, reason = next(iter(report.failures.items()))
        raise InputError(
            f'{len(report.failures)} runs failed; the same command tries only these '
            f'again. The first is {name}: {reason}'
        )


if __name__ == '__main__':
    main()
