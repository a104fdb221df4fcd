"""A study's report as files."""

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
    'of seeds). Differences: in percentage points, seed by seed, mean ± standard '
    'error; below 0 the entry is better. Level: a t-test of the pairs does not tell '
    'it from 0 at 95 %. MACs and parameters: condensed.'
)


def entry_cells(report: Report) -> List[List[str]]:
    """Format the entries for a table.

    Args:
        report (Report): The study's report.

    Returns:
        list[list[str]]: A line for each entry, of ``ENTRY_COLUMNS``.
    """
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


def difference_cells(report: Report, section: int) -> List[List[str]]:
    """Format a comparison's differences for a table.

    Args:
        report (Report): The study's report.
        section (int): Which one of its sections.

    Returns:
        list[list[str]]: A line for each, of ``DIFFERENCE_COLUMNS``.
    """
    return [
        [one.entry, one.reference, one.text, str(one.pairs), one.verdict]
        for one in report.sections[section].differences
    ]


def heading(report: Report) -> str:
    """Say in a line what was studied."""
    seeds = ', '.join(map(str, report.seeds))
    return f'Study on {report.data}: {report.epochs} epochs, seeds {seeds}'


def write_report(report: Report, folder: Path) -> None:
    """Write ``study.json``, ``study.md`` and, of two entries or more, ``study.png``.

    Args:
        report (Report): The study's report.
        folder (Path): Where to; each file is there whole or not at all. A
            picture of earlier results goes if there is none to replace it.
    """
    with replace_when_done(folder / 'study.json') as path:
        path.write_text(json.dumps(asdict(report), indent=1) + '\n')
    with replace_when_done(folder / 'study.md') as path:
        path.write_text('\n'.join(_markdown(report)) + '\n')
    picture = folder / 'study.png'
    if any(row.errors for section in report.sections for row in section.rows):
        with replace_when_done(picture) as path:
            study_figure(report).savefig(path)
    else:
        picture.unlink(missing_ok=True)


def _markdown(report: Report) -> List[str]:
    lines = [f'# {heading(report)}', '']
    lines += [*table_lines(ENTRY_COLUMNS, entry_cells(report)), '', NOTE]
    for number, section in enumerate(report.sections):
        comparison = section.comparison
        lines += ['', f'## {comparison.title}', '', comparison.claim, '']
        lines += table_lines(DIFFERENCE_COLUMNS, difference_cells(report, number))
    if report.failures:
        lines += ['', '## Failed', '']
        lines += [f'- {name}: {reason}' for name, reason in report.failures.items()]
    return [*lines, '', *(f'Trained on: {one}.' for one in report.environments)]


def table_lines(columns: Iterable[str], rows: List[List[str]]) -> List[str]:
    """Format a table as Markdown.

    Args:
        columns (Iterable[str]): Their names.
        rows (list[list[str]]): Their cells.

    Returns:
        list[str]: Its lines.
    """
    columns = list(columns)
    cells = [columns, ['---'] * len(columns), *rows]
    return ['| ' + ' | '.join(row) + ' |' for row in cells]
