"""A picture of a study: every training's error, a panel for each comparison."""

import math
import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .grid import ENTRIES
from .report import Report, Section

COLUMNS = 3
# Inches: a panel, what lies between two of them, and around all of them.
PANEL = (3.8, 2.7)
GAP = (0.7, 1.3)
LEFT, RIGHT, BOTTOM, TOP = 0.85, 0.2, 0.6, 1.3
# Characters of a line of small text above a panel.
_LINE = 60
# How far apart the seeds' points stand, in entries.
_SPREAD = 0.12


def study_figure(report: Report) -> Figure:
    """Draw a study's errors.

    Args:
        report (Report): The study's report.

    Returns:
        Figure: In each panel a point for each training, and a line with a bar
        for mean and standard deviation of each entry.
    """
    sections = report.sections
    columns = min(COLUMNS, max(len(sections), 1))
    lines = max(math.ceil(len(sections) / columns), 1)
    width = LEFT + columns * (PANEL[0] + GAP[0]) - GAP[0] + RIGHT
    height = BOTTOM + lines * (PANEL[1] + GAP[1]) - GAP[1] + TOP
    figure = Figure(figsize=(width, height), dpi=120)
    panels = figure.subplots(lines, columns, squeeze=False)
    figure.subplots_adjust(
        left=LEFT / width,
        right=1 - RIGHT / width,
        bottom=BOTTOM / height,
        top=1 - TOP / height,
        wspace=GAP[0] / PANEL[0],
        hspace=GAP[1] / PANEL[1],
    )
    for section, ax in zip(sections, panels.flat):
        _draw(ax, section)
    for ax in panels.flat[len(sections) :]:
        ax.set_axis_off()
    for ax in panels[:, 0]:
        ax.set_ylabel('top-1 error (%)')
    seeds = ', '.join(map(str, report.seeds))
    study = f'{report.data}, {report.epochs} epochs, seeds {seeds}:'
    shown = 'each training, mean and standard deviation'
    title = figure.suptitle(
        f'{study} {shown}',
        size=11,
        x=LEFT / width,
        y=1 - 0.15 / height,
        ha='left',
        va='top',
    )
    box = title.get_window_extent()
    if box.x1 > figure.bbox.width:
        characters = (figure.bbox.width - box.x0) / box.width * len(title.get_text())
        # Some characters are wider than others.
        study = textwrap.fill(study, int(0.9 * characters))
        title.set_text(f'{study}\n{shown}')
    return figure


def _draw(ax: Axes, section: Section) -> None:
    for place, row in enumerate(section.rows):
        errors = list(row.errors.values())
        middle = (len(errors) - 1) / 2
        ax.plot(
            [place + _SPREAD * (index - middle) for index in range(len(errors))],
            errors,
            'o',
            color='#6baed6',
            ms=5,
            zorder=3,
        )
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
    entries = [ENTRIES[row.name] for row in section.rows]
    ax.set_xticklabels([entry.label or entry.title for entry in entries], size=8)
    ax.set_xlim(-0.6, len(section.rows) - 0.4)
    ax.set_title(section.comparison.title, size=10, loc='left', pad=28)
    claim = textwrap.fill(section.comparison.claim, _LINE)
    ax.annotate(
        claim,
        (0, 1.02),
        xycoords='axes fraction',
        size=7.5,
        color='0.35',
        va='bottom',
    )
    ax.margins(y=0.15)
    ax.grid(axis='y', color='0.9', lw=0.6)
    ax.set_axisbelow(True)
