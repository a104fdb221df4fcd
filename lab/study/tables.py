"""Tables and files of a study's report."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Iterable, List

from mmcdnv2.files import replace_when_done

from .plot import study_figure
from .report import Report

ENTRY_COLUMNS = (
    'entry',
    'network',
    'MACs (M)',
    'params (k)',
    'error (%)',
    'each seed',
    'images/s',
    'left out',
)
DIFFERENCE_COLUMNS = ('entry', 'against', 'difference', 'seeds', 'verdict')
NOTE = (
    'Errors: top-1 in percent after the last epoch, mean ± standard deviation (number '
    'of seeds). Differences: in percentage points, paired by seed, mean ± standard '
    'error; below 0 the entry is better. Level: a paired t-test finds no difference '
    'at 95 %. MACs and parameters: condensed.'
)


def entry_cells(report: Report) -> List[List[str]]:
    """Return a row of ``ENTRY_COLUMNS`` for each entry."""
    return [
        [
            row.name,
            row.title,
            f'{row.macs / 1e6:.2f}',
            f'{row.params / 1e3:.1f}',
            row.text,
            ', '.join(f'{error:.2f}' for error in row.errors.values()),
            f'{row.images_per_second:.0f}',
            row.left_out,
        ]
        for row in report.rows
    ]


def write_report(report: Report, folder: Path) -> None:
    """Write ``study.json``, ``study.md`` and, of two entries or more, ``study.png``.

    A plot of earlier results is removed if there is nothing to plot.

    Args:
        report (Report): The study's report.
        folder (Path): Folder to write to.
    """
    with replace_when_done(folder / 'study.json') as path:
        path.write_text(json.dumps(asdict(report), indent=1) + '\n')
    with replace_when_done(folder / 'study.md') as path:
        path.write_text('\n'.join(_markdown(report)) + '\n')
    plot = folder / 'study.png'
    if any(row.errors for section in report.sections for row in section.rows):
        with replace_when_done(plot) as path:
            study_figure(report).savefig(path)
    else:
        plot.unlink(missing_ok=True)


def _markdown(report: Report) -> List[str]:
    lines = [f'# Study on {report.heading}', '']
    lines += [*table_lines(ENTRY_COLUMNS, entry_cells(report)), '', NOTE]
    for section in report.sections:
        comparison = section.comparison
        lines += ['', f'## {comparison.title}', '', comparison.claim, '']
        cells = [one.cells for one in section.differences]
        lines += table_lines(DIFFERENCE_COLUMNS, cells)
    if report.failures:
        lines += ['', '## Failed', '']
        lines += [f'- {name}: {reason}' for name, reason in report.failures.items()]
    return [*lines, '', *(f'Trained on: {one}.' for one in report.environments)]


def table_lines(columns: Iterable[str], rows: List[List[str]]) -> List[str]:
    """Return the lines of a Markdown table."""
    columns = list(columns)
    cells = [columns, ['---'] * len(columns), *rows]
    return ['| ' + ' | '.join(row) + ' |' for row in cells]
