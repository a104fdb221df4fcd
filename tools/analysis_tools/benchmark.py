"""Time our networks or detectors and their peers in one run."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, Dict, Union

from clone import ROOT
from rich.table import Table

from lab.benchmark import (
    DETECTORS,
    NETWORKS,
    PARTS,
    RUNTIMES,
    STEPS,
    DetectorReport,
    DetectorSettings,
    Report,
    Settings,
    detector_figure,
    latency_figure,
    measure_detectors,
    measure_latency,
)
from mmcdnv2.cli import command_line, report_console, track_progress
from mmcdnv2.errors import InputError
from mmcdnv2.files import check_writable, replace_all_when_done

COLUMNS = (
    'ms',
    'spread',
    'ratio',
    'MACs (M)',
    'GFLOP/s',
    'of product',
    'of copy',
    'params (M)',
    'top-1',
)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        '--models',
        nargs='+',
        default=(),
        metavar='NAME',
        help=f'networks ({", ".join(NETWORKS)}), or forms of them such as '
        f'cdnv2_a-condensed; with --part detector, detectors ({", ".join(DETECTORS)}) '
        'or config files; all if not given',
    )
    parser.add_argument(
        '--runtimes', nargs='+', choices=RUNTIMES, default=defaults.runtimes
    )
    parser.add_argument(
        '--part',
        choices=(*PARTS, 'detector'),
        default=defaults.part,
        help='part to time',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        action='append',
        metavar=('HEIGHT', 'WIDTH'),
        help='input size in pixels, can be repeated; 224 224 if not given, 640 640 '
        'for detectors',
    )
    parser.add_argument('--batch', type=int, default=defaults.batch)
    parser.add_argument('--threads', type=int, default=defaults.threads)
    parser.add_argument('--rounds', type=int, default=defaults.rounds)
    parser.add_argument(
        '--baseline',
        metavar='NAME:RUNTIME',
        help='reference of the ratios, for detectors only NAME; the first model if '
        'not given',
    )
    parser.add_argument(
        '--image',
        help='image for detectors; a photograph from scikit-learn if not given',
    )
    parser.add_argument(
        '--out', type=Path, default='work_dirs/benchmark', help='output folder'
    )
    return parser.parse_args()


def percent(share: float) -> str:
    """Format a share in percent."""
    return f'{share:.1%}'


def show_networks(report: Report) -> None:
    """Print the report as a table."""
    settings = report.settings
    height, width = settings.size
    table = Table(
        title=f'{settings.part}, input {height}x{width}, batch {settings.batch}, '
        f'threads {settings.threads}, median of {settings.rounds} rounds'
    )
    table.add_column('model', overflow='fold')
    table.add_column('runtime')
    for column in COLUMNS:
        table.add_column(column, justify='right')
    for row in report.rows:
        table.add_row(
            row.model,
            row.runtime,
            f'{row.ms:.2f}',
            percent(row.spread),
            f'{row.ratio:.2f}',
            f'{row.macs / 1e6:.1f}',
            f'{row.gflops:.1f}',
            percent(row.product_share),
            percent(row.copy_share),
            f'{row.params / 1e6:.2f}',
            '' if row.top1 is None else f'{row.top1:.1f}',
        )
    console = report_console(160, soft_wrap=True)
    console.print(table)
    console.print(
        f'Fastest matrix product: {report.product_gflops:.1f} GFLOP/s. '
        f'Copy in memory: {report.copy_gbytes:.1f} GB/s.\n'
        'Largest relative difference of an output: '
        f'{max(row.difference for row in report.rows):.1e}\n'
        'Published top-1 in percent, sources: '
        f'{", ".join(dict.fromkeys(row.source for row in report.rows if row.top1))}'
    )
    console.print('; '.join(f'{k}: {v}' for k, v in report.environment.items()))
    for reason, names in report.left_out.items():
        console.print(f'Left out: {", ".join(names)}: {reason}', markup=False)


def show_detectors(report: DetectorReport) -> None:
    """Print the report as a table."""
    settings = report.settings
    table = Table(
        title='detectors, input {}x{}, threads {}, median of {} rounds, ms'.format(
            *settings.size, settings.threads, settings.rounds
        )
    )
    table.add_column('detector', overflow='fold')
    parts = [f'{step} (G)' for step in STEPS[:3]]
    columns = (
        *(*STEPS, 'whole', 'ratio', 'ONNX Runtime', 'ratio'),
        *('MACs (G)', *parts, 'params (M)', 'boxes'),
    )
    for column in columns:
        table.add_column(column, justify='right')
    for row in report.rows:
        table.add_row(
            row.name,
            *(f'{row.steps[step]:.1f}' for step in STEPS),
            f'{row.ms:.1f}',
            f'{row.ratio:.2f}',
            '' if row.exported_ms is None else f'{row.exported_ms:.1f}',
            '' if row.exported_ratio is None else f'{row.exported_ratio:.2f}',
            f'{sum(row.macs.values()) / 1e9:.2f}',
            *(f'{macs / 1e9:.2f}' for macs in row.macs.values()),
            f'{row.params / 1e6:.2f}',
            str(row.boxes),
        )
    console = report_console(160, soft_wrap=True)
    console.print(table)
    console.print('; '.join(f'{k}: {v}' for k, v in report.environment.items()))
    for reason, names in report.left_out.items():
        console.print(f'Not exported: {", ".join(names)}: {reason}', markup=False)


def settings_of(args: argparse.Namespace) -> Union[Settings, DetectorSettings]:
    """Return the settings, with the part's default size."""
    common: Dict[str, Any] = dict(
        models=tuple(args.models),
        threads=args.threads,
        rounds=args.rounds,
        baseline=args.baseline,
    )
    if args.part != 'detector':
        return Settings(
            runtimes=tuple(args.runtimes), part=args.part, batch=args.batch, **common
        )
    if args.batch != 1:
        raise InputError('Detectors are timed with a batch of 1: leave out --batch.')
    if tuple(args.runtimes) != Settings().runtimes:
        common['runtimes'] = tuple(args.runtimes)
    return DetectorSettings(image=args.image, **common)


@command_line(parse_args)
def main(args: argparse.Namespace) -> None:
    """Time the models and write the results."""
    measure: Callable
    show: Callable
    draw: Callable
    if args.part == 'detector':
        measure, show, draw = measure_detectors, show_detectors, detector_figure
    else:
        measure, show, draw = measure_latency, show_networks, latency_figure
    settings = settings_of(args)
    reports = []
    for size in args.size or [settings.size]:
        name = '{}_{}x{}.png'.format(args.part, *size)
        targets = [args.out / name, args.out / f'{args.part}.json']
        for target in targets:
            check_writable(target)
        report = measure(replace(settings, size=tuple(size)), ROOT, track_progress)
        show(report)
        reports.append(report)
        with replace_all_when_done(targets) as (plot, path):
            draw(report).savefig(plot)
            path.write_text(json.dumps([asdict(r) for r in reports], indent=1) + '\n')


if __name__ == '__main__':
    main()
