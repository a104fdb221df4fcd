"""Plot a study's errors, a panel for each comparison."""

import math
import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .grid import ENTRIES
from .report import Report, Section

COLUMNS = 3
# Inches, with labels and titles.
PANEL = (4.5, 4.0)
# Characters per line of a claim.
_LINE = 66
# Distance between the points of two seeds; entries are 1 apart.
_SPREAD = 0.12


def study_figure(report: Report) -> Figure:
    """Plot each run as a point, and each entry's mean and standard deviation."""
    sections = report.sections
    columns = min(COLUMNS, max(len(sections), 1))
    lines = max(math.ceil(len(sections) / columns), 1)
    size = (columns * PANEL[0], lines * PANEL[1])
    figure = Figure(figsize=size, dpi=120, layout='constrained')
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    panels = figure.subplots(lines, columns, squeeze=False)
    for section, ax in zip(sections, panels.flat):
        _draw(ax, section)
    for ax in panels.flat[len(sections) :]:
        ax.set_axis_off()
    for ax in panels[:, 0]:
        ax.set_ylabel('top-1 error (%)')
    title = f'{report.heading}: each run, mean and standard deviation'
    figure.suptitle(title, size=11, x=0.02, ha='left', wrap=True)
    return figure


def _draw(ax: Axes, section: Section) -> None:
    for place, row in enumerate(section.rows):
        errors = list(row.errors.values())
        middle = (len(errors) - 1) / 2
        points = [place + _SPREAD * (index - middle) for index in range(len(errors))]
        ax.plot(points, errors, 'o', color='#6baed6', ms=5, zorder=3)
        if row.mean is not None:
            ax.errorbar(
                place,
                row.mean,
                yerr=row.deviation or 0.0,
                color='#08306b',
                marker='_',
                ms=16,
                capsize=4,
                lw=1.2,
            )
        if row.left_out:
            ax.annotate(
                row.left_out.replace('; ', '\n'),
                (place, 0.02),
                xycoords=ax.get_xaxis_transform(),
                ha='center',
                size=7,
                color='#d62728',
            )
    ax.set_xticks(range(len(section.rows)))
    ax.set_xticklabels([ENTRIES[row.name].label for row in section.rows], size=8)
    ax.set_xlim(-0.6, len(section.rows) - 0.4)
    ax.set_title(section.comparison.title, size=10, loc='left', pad=28)
    ax.annotate(
        textwrap.fill(section.comparison.claim, _LINE),
        (0, 1.02),
        xycoords='axes fraction',
        size=7.5,
        color='0.35',
        va='bottom',
    )
    ax.margins(y=0.15)
    ax.grid(axis='y', color='0.9', lw=0.6)
    ax.set_axisbelow(True)
