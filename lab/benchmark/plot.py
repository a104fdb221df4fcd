"""Plot latency against published accuracy."""

import math
from typing import Dict, List, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from .latency import Report, Row
from .networks import NETWORKS

MARKERS = dict(eager='o', compile='D', onnxruntime='s', openvino='^')
# One hue per family, the darkest shade for the deployed form.
COLOURS = {
    ('CondenseNetV2', 'condensed'): '#08306b',
    ('CondenseNetV2', 'fallback'): '#2f7fc1',
    ('CondenseNetV2', 'sparse'): '#9ecae1',
    ('CondenseNetV2', 'authors'): '#d62728',
    ('SFR-ShuffleNetV2', 'condensed'): '#00441b',
    ('SFR-ShuffleNetV2', 'fallback'): '#2f9e50',
    ('SFR-ShuffleNetV2', 'sparse'): '#a1d99b',
    ('ShuffleNetV2', ''): '#f28e00',
    ('MobileNet', ''): '#7b4fa3',
    ('GhostNet', ''): '#7f7f7f',
    ('PP-LCNet', ''): '#17a2b8',
    ('PP-HGNetV2', ''): '#d6559f',
    ('RepViT', ''): '#8c5a3c',
}
FORMS = dict(
    condensed='condensed, kernels',
    fallback='condensed, fallback',
    authors="authors' structure",
)
# In inches: a panel, the labels, a line of the legend, and the title.
PANEL = (4.6, 4.8)
LABELS, LEGEND_LINE, TITLE = 1.8, 0.2, 0.8
# Height of a line of small text relative to a panel.
LINE = 0.04


def latency_figure(report: Report) -> Figure:
    """Draw latency against top-1, one panel per runtime.

    Args:
        report (Report): The results; models without a published top-1 are not
            drawn.

    Returns:
        Figure: A point for each model and runtime, a line for each form of a
        family, and the names of the networks on the right.
    """
    rows = [row for row in report.rows if row.top1 is not None]
    runtimes = list(dict.fromkeys(row.runtime for row in rows))
    columns = min(len(runtimes), 2)
    lines = math.ceil(len(runtimes) / 2)
    series = len({(row.family, row.form) for row in rows})
    legend = 0.2 + LEGEND_LINE * math.ceil(series / (2 * columns))
    width, height = columns * PANEL[0] + LABELS, lines * PANEL[1] + legend + TITLE
    figure = Figure(figsize=(width, height), dpi=120)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.75 / width,
        right=1 - LABELS / width,
        bottom=(legend + 0.5) / height,
        top=1 - TITLE / height,
        wspace=0.06,
        hspace=0.12,
    )
    handles: Dict[str, object] = {}
    for runtime, ax in zip(runtimes, panels.flat):
        _draw_runtime(ax, [row for row in rows if row.runtime == runtime], handles)
        ax.set_title(runtime, size=10)
    for ax in panels.flat[len(runtimes) :]:
        ax.set_axis_off()
    for ax in panels[:, 0]:
        ax.set_ylabel('published ImageNet top-1 (%)')
    for ax in panels.flat[max(0, len(runtimes) - columns) : len(runtimes)]:
        ax.set_xlabel('ms (median and quartiles)')
        ax.tick_params(labelbottom=True)
    for index in range(0, len(runtimes), columns):
        _name_networks(panels.flat[min(index + columns, len(runtimes)) - 1], rows)
    figure.legend(
        handles.values(),
        handles,
        loc='lower center',
        ncol=2 * columns,
        fontsize=8,
        frameon=False,
    )
    figure.suptitle(_title(report), size=10, y=1 - 0.12 / height, va='top')
    return figure


def _height(row: Row) -> float:
    """Return the published accuracy of a row that has one."""
    return cast(float, row.top1)


def _title(report: Report) -> str:
    settings = report.settings
    height, width = settings.size
    threads = f'{settings.threads} thread{"s" * (settings.threads > 1)}'
    return (
        f'{settings.part} at {height}x{width}, batch {settings.batch}, {threads}, '
        f'float32\n{report.environment["processor"]}'
    )


def _draw_runtime(ax: Axes, rows: List[Row], handles: Dict[str, object]) -> None:
    """Draw one runtime's points and add new lines to the legend's handles."""
    for (family, form), colour in COLOURS.items():
        line = [row for row in rows if (row.family, row.form) == (family, form)]
        if not line:
            continue
        line.sort(key=_height)
        quartiles = np.array([np.percentile(row.times, (25, 75)) for row in line])
        medians = np.array([row.ms for row in line])
        errors = np.abs(quartiles.T - medians)
        label = f'{family}, {FORMS.get(form, form)}' if form else family
        handle = ax.errorbar(
            medians,
            [_height(row) for row in line],
            xerr=errors,
            color=colour,
            marker=MARKERS[line[0].runtime],
            ms=5,
            lw=1,
            elinewidth=1,
            capsize=2,
        )
        handles.setdefault(label, handle)
    ax.set_xscale('log')
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis='x', color='0.9', lw=0.6)
    ax.margins(0.06)
    ax.set_axisbelow(True)


def _name_networks(ax: Axes, rows: List[Row]) -> None:
    """Write the networks' names to the right of a panel without overlaps."""
    heights = {row.network: _height(row) for row in rows}
    names = sorted(heights, key=lambda name: heights[name])
    low, high = ax.get_ylim()
    gap = LINE * (high - low)
    # The mean of both keeps the gap.
    upwards = _at_least_apart([heights[name] for name in names], gap)
    downwards = _at_least_apart([-heights[name] for name in names[::-1]], gap)
    for name, up, down in zip(names, upwards, downwards[::-1]):
        family = NETWORKS[name].family
        colour = next(c for key, c in COLOURS.items() if key[0] == family)
        ax.annotate(
            name,
            (1, heights[name]),
            (1.05, (up - down) / 2),
            xycoords=ax.get_yaxis_transform(),
            textcoords=ax.get_yaxis_transform(),
            size=8,
            va='center',
            color=colour,
            arrowprops=dict(arrowstyle='-', color='0.7', lw=0.6, shrinkA=0, shrinkB=0),
            annotation_clip=False,
        )


def _at_least_apart(values: List[float], gap: float) -> List[float]:
    """Raise ascending values so that they differ by at least the gap."""
    apart: List[float] = []
    for value in values:
        apart.append(max(value, apart[-1] + gap) if apart else value)
    return apart
