"""Tables and files of a study's report."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import List, NamedTuple, Sequence

from mmcdnv2.files import replace_when_done

from .plot import study_figure
from .report import Difference, Report

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


class Table(NamedTuple):
    """A table with a title and an explanation."""

    title: str
    text: str
    columns: Sequence[str]
    rows: List[List[str]]

    def markdown(self, level: int) -> List[str]:
        """Return its lines, below a heading of a level."""
        cells = [self.columns, ['---'] * len(self.columns), *self.rows]
        lines = ['| ' + ' | '.join(row) + ' |' for row in cells]
        return [f'{"#" * level} {self.title}', '', self.text, '', *lines, '']


def difference_table(title: str, text: str, differences: Sequence[Difference]) -> Table:
    """Return a table of differences."""
    rows = [
        [one.entry, one.reference, one.text, str(one.pairs), one.verdict]
        for one in differences
    ]
    return Table(title, text, DIFFERENCE_COLUMNS, rows)


def report_tables(report: Report) -> List[Table]:
    """Return a table of the entries and one for each comparison."""
    rows = [
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
    return [
        Table(f'Study on {report.heading}', NOTE, ENTRY_COLUMNS, rows),
        *(
            difference_table(
                one.comparison.title, one.comparison.claim, one.differences
            )
            for one in report.sections
        ),
    ]


def write_report(report: Report, folder: Path) -> None:
    """Write ``study.json``, ``study.md`` and, of two entries or more, ``study.png``.

    A plot of earlier results is removed if there is nothing to plot.
    """
    lines = []
    for index, table in enumerate(report_tables(report)):
        lines += table.markdown(2 if index else 1)
    if report.failures:
        lines += ['## Failed', '']
        lines += [f'- {name}: {reason}' for name, reason in report.failures.items()]
        lines.append('')
    lines += [f'Trained on: {one}.' for one in report.environments]
    with replace_when_done(folder / 'study.md') as path:
        path.write_text('\n'.join(lines) + '\n')
    with replace_when_done(folder / 'study.json') as path:
        path.write_text(json.dumps(asdict(report), indent=1) + '\n')
    plot = folder / 'study.png'
    if any(row.errors for section in report.sections for row in section.rows):
        with replace_when_done(plot) as path:
            study_figure(report).savefig(path)
    else:
        plot.unlink(missing_ok=True)
