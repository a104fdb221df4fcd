"""Plot the sparse layers' connections (paper, Figs. 6 and 7)."""

import math
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple, Union

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mmcdnv2.builder import build_model
from mmcdnv2.checkpoint import load_checkpoint, load_weights, weights_of
from mmcdnv2.config import load_config
from mmcdnv2.errors import InputError
from mmcdnv2.files import replace_when_done

from .block_map import KINDS, BlockMap, block_maps, dense_chains, source_strength

# Rows and columns of a layer's map, and the verb for a source's features.
ROLES = {
    'LGC': ('filter group', 'input feature map', 'reads'),
    'SFR': ('input group', 'updated feature map', 'updates'),
}
# Yellow to violet: distinct from white and grey.
COLOURS = colormaps['viridis_r'].with_extremes(bad='white')
ABSENT, BORDER = '0.85', '0.5'

# All sizes are in pixels, so that each channel gets at least one and labels fit.
DPI = 100
# Height of a line of small text, width of its characters.
LINE, CHARACTER = 15, 7
MARGIN, HEADING = 20, 30
# Smallest width of a panel and of a source in it.
MIN_WIDTH, MIN_SOURCE = 720, 8
# Smallest heights of a layer and of a group in it, largest height of a layer in (b).
LAYER, GROUP, MAX_LAYER = LINE + 2, 4, 30
BARS_HEIGHT = 200
# Width and largest height of a colour bar, width of its ticks and labels.
SCALE_WIDTH, SCALE_HEIGHT, SCALE_SPACE = 10, 200, 60

# The blocks of each column.
_Columns = Sequence[List[BlockMap]]


@dataclass
class _Panel:
    """A panel: its height in pixels, drawing function and colour scale, if any."""

    height: int
    draw: Callable[[Axes], None]
    scale: Optional[Normalize] = None


@dataclass
class _Section:
    """A section: its heading, panels of each column, and space below each panel."""

    heading: str
    columns: List[List[_Panel]]
    below: int


def draw_connection_maps(
    models: Sequence[Tuple[str, str]], out: Union[str, Path], trust: bool = False
) -> List[List[BlockMap]]:
    """Draw the connection maps of checkpoints side by side.

    Args:
        models (Sequence[tuple[str]]): Config and checkpoint of each model, sparse
            (at any stage) or condensed.
        out (str | Path): Image file to write, in a format of matplotlib.
        trust (bool): Whether the checkpoints may contain more than tensors.

    Returns:
        list[list[BlockMap]]: The drawn blocks of each model.

    Raises:
        InputError: If an input cannot be used or a model has no sparse layers.
    """
    formats = Figure().canvas.get_supported_filetypes()
    if Path(out).suffix[1:].lower() not in formats:
        raise InputError(
            f'{out} has no known image format: it must end in one of '
            f'{", ".join(sorted(formats))}.'
        )
    columns = []
    for config, checkpoint in models:
        model = build_model(load_config(config))
        content = load_checkpoint(checkpoint, trust)
        load_weights(model, weights_of(content), checkpoint)
        blocks = block_maps(model)
        if not blocks:
            raise InputError(
                f'{config} has no LGC and no SFR, so it has no connections to draw.'
            )
        columns.append(blocks)
    figure = connection_figure(titles_of(models), columns)
    with replace_when_done(out) as path:
        figure.savefig(path)
    return columns


def titles_of(models: Sequence[Tuple[str, str]]) -> List[str]:
    """Name models by their files, with as many folders as make the names unique.

    Args:
        models (Sequence[tuple[str, str]]): Config and checkpoint of each.

    Returns:
        list[str]: A title for each.
    """

    def named(depth: int) -> List[str]:
        return [
            ', '.join(str(Path(*Path(file).parts[-depth:])) for file in files)
            for files in models
        ]

    deepest = max(len(Path(file).parts) for files in models for file in files)
    for titles in map(named, range(1, deepest + 1)):
        if len(set(titles)) == len(models):
            return titles
    # A model compared with itself.
    return named(1)


def connection_figure(
    titles: Sequence[str], columns: Sequence[List[BlockMap]]
) -> Figure:
    """Draw the connection maps of models side by side.

    From top to bottom: (a) for LGC and for SFR, the strength of each group and
    channel; (b) the strength of each layer and source, for LGC if it is in dense
    blocks, otherwise for SFR; without dense blocks, the strength of each layer. The
    size of weights depends on their number, so each block has its own colour scale
    in (a), shared by the blocks in one row, and each layer has its own in (b).

    Args:
        titles (Sequence[str]): Titles of the columns.
        columns (Sequence[list[BlockMap]]): The blocks of each model.

    Returns:
        Figure: The figure, sized to the networks.
    """
    layers = [layer for blocks in columns for b in blocks for layer in b.layers]
    left = CHARACTER * max(len(layer.label) for layer in layers) + 2 * MARGIN
    channels = max(layer.strength.size(1) for layer in layers)
    sources = max(len(b.sources) for blocks in columns for b in blocks)
    width = max(MIN_WIDTH, channels, MIN_SOURCE * sources)
    by_kind = {
        kind: [[b for b in blocks if b.kind == kind] for blocks in columns]
        for kind in KINDS
    }
    kinds = [kind for kind, chosen in by_kind.items() if any(chosen)]
    dense = [
        kind
        for kind in kinds
        if any(len(b.sources) > 1 for blocks in by_kind[kind] for b in blocks)
    ]
    sections = []
    for kind in kinds:
        row, column, _ = ROLES[kind]
        heading = f'(a) {kind}: mean |w| of each {row} (rows) and {column} (columns)'
        panels = _channel_panels(by_kind[kind])
        sections.append(_Section(heading, panels, LINE + MARGIN))
    for kind in dense[:1]:
        heading = (
            f'(b) {kind}: relative mean |w|, 0 where pruned, with which a layer '
            f'(row) {ROLES[kind][2]} the features of a source (column)'
        )
        panels = _source_panels(by_kind[kind], width)
        sections.append(_Section(heading, panels, left))
    for kind in [] if dense else kinds:
        heading = f'(b) {kind}: mean |w|, 0 where pruned, of each layer'
        panels = _bar_panels(by_kind[kind])
        sections.append(_Section(heading, panels, left))
    return _lay_out(titles, sections, left, width)


def _lay_out(
    titles: Sequence[str], sections: Sequence[_Section], left: int, width: int
) -> Figure:
    """Draw the panels in a grid, with aligned tops in a row."""
    # Each column has labels, panels, space, colour bars and their ticks.
    widths = [left, width, LINE, SCALE_WIDTH, SCALE_SPACE] * len(titles)
    heights = [2 * MARGIN, HEADING]
    texts = [(0, j, title, 11) for j, title in enumerate(titles)]
    placed = []
    for section in sections:
        texts.append((len(heights), 0, section.heading, 10))
        heights.append(HEADING)
        for j, column in enumerate(section.columns):
            if not column:
                texts.append((len(heights), j, 'This network has none.', 8))
        for row in zip_longest(*section.columns):
            placed += [(len(heights), j, panel) for j, panel in enumerate(row) if panel]
            heights += [max(panel.height for panel in row if panel), section.below]
    figure = Figure((sum(widths) / DPI, sum(heights) / DPI), dpi=DPI)
    edges = dict(left=0, right=1, bottom=0, top=1, wspace=0, hspace=0)
    grid = figure.add_gridspec(
        len(heights), len(widths), width_ratios=widths, height_ratios=heights, **edges
    )
    for i, j, text, size in texts:
        box = grid[i, 5 * j + 1].get_position(figure)
        figure.text(box.x0, (box.y0 + box.y1) / 2, text, size=size, va='center')
    handles = [
        Patch(facecolor='white', edgecolor='black', label='pruned'),
        Patch(facecolor=ABSENT, label='absent: comes after the layer'),
    ]
    legend = figure.add_subplot(grid[1, 1])
    legend.axis('off')
    style = dict(loc='center left', borderpad=0, borderaxespad=0, frameon=False)
    legend.legend(handles=handles, ncol=2, fontsize=8, **style)
    for i, j, panel in placed:
        # Next to a higher panel, it is aligned at the top.
        shape = dict(box_aspect=panel.height / width, anchor='N')
        ax = figure.add_subplot(grid[i, 5 * j + 1], **shape)
        ax.apply_aspect()
        panel.draw(ax)
        if panel.scale and panel.scale.vmin < panel.scale.vmax:
            shape['box_aspect'] = min(panel.height, SCALE_HEIGHT) / SCALE_WIDTH
            ax = figure.add_subplot(grid[i, 5 * j + 3], **shape)
            bar = figure.colorbar(ScalarMappable(panel.scale, COLOURS), cax=ax)
            ends = [panel.scale.vmin, panel.scale.vmax]
            bar.set_ticks(ends, labels=[f'{end:.2g}' for end in ends])
    for ax in figure.axes:
        ax.tick_params(labelsize=8, length=2, pad=2)
    return figure


def _channel_panels(columns: _Columns) -> List[List[_Panel]]:
    """Return panels of each block's layers: groups and channels."""
    scales = _common_scales(columns)

    def panel(block: BlockMap, scale: Normalize) -> _Panel:
        groups = max(layer.strength.size(0) for layer in block.layers)
        height = len(block.layers) * max(LAYER, GROUP * groups)
        return _Panel(height, partial(_draw_channels, block, scale), scale)

    return [[panel(*pair) for pair in zip(blocks, scales)] for blocks in columns]


def _draw_channels(block: BlockMap, scale: Normalize, ax: Axes) -> None:
    rows = [layer.strength.numpy() for layer in block.layers]
    _paint(ax, rows, scale)
    _name(ax.yaxis, [layer.label for layer in block.layers])
    if len(block.sources) > 1:
        ends = [*block.sources.values(), rows[-1].shape[1]]
        ax.set_xticks(_spaced(ends, 6 * CHARACTER * ends[-1] / ax.bbox.width))
        ax.vlines(ends, 0, len(rows), color=BORDER, lw=0.5)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))


def _source_panels(columns: _Columns, width: int) -> List[List[_Panel]]:
    """Return panels of each chain of dense blocks: layers and sources."""

    def panel(chain: List[BlockMap]) -> _Panel:
        layers, sources = sum(len(b.layers) for b in chain), len(chain[-1].sources)
        height = layers * min(MAX_LAYER, width // sources)
        # A single source has no relative strength.
        scale = Normalize(0, 1) if sources > 1 else None
        return _Panel(height, partial(_draw_sources, chain), scale)

    return [[panel(chain) for chain in dense_chains(blocks)] for blocks in columns]


def _draw_sources(chain: List[BlockMap], ax: Axes) -> None:
    rows = [_relative(row) for row in source_strength(chain).numpy()]
    sources = list(chain[-1].sources)
    _paint(ax, rows, Normalize(0, 1))
    _name(ax.yaxis, [layer.label for block in chain for layer in block.layers])
    _name(ax.xaxis, sources)
    borders = np.cumsum([len(block.layers) for block in chain])[:-1]
    style = dict(color='black', lw=1, ls='--')
    ax.hlines(borders, 0, len(sources), **style)
    # The first column is the input.
    ax.vlines(borders + 1, 0, len(rows), **style)


def _relative(strength: np.ndarray) -> np.ndarray:
    """Scale the strengths of a layer's sources to [0, 1], weakest to strongest.

    Connections that are pruned entirely become NaN. Sources after the layer are
    left out.
    """
    row = np.where(strength == 0, np.nan, strength)[None, ~np.isnan(strength)]
    if np.isnan(row).all():
        return row
    low, high = np.nanmin(row), np.nanmax(row)
    # If all are equal, each one is the strongest.
    return (row - low) / (high - low) if high > low else row / high


def _bar_panels(columns: _Columns) -> List[List[_Panel]]:
    """Return panels of networks without dense blocks: a bar for each layer."""
    # The input is the only source.
    heights = [
        [value for b in blocks for value in source_strength([b])[:, 0].tolist()]
        for blocks in columns
    ]
    top = 1.05 * max(max(strengths, default=0) for strengths in heights) or 1

    def draw(blocks: Sequence[BlockMap], strengths: Sequence[float], ax: Axes) -> None:
        ax.bar(np.arange(len(strengths)) + 0.5, strengths, color=COLOURS(0.7))
        ax.set(xlim=(0, len(strengths)), ylim=(0, top))
        _name(ax.xaxis, [layer.label for b in blocks for layer in b.layers])

    return [
        [_Panel(BARS_HEIGHT, partial(draw, *pair))] if pair[0] else []
        for pair in zip(columns, heights)
    ]


def _common_scales(columns: _Columns) -> List[Normalize]:
    """Return a colour scale for the first blocks of all columns, the second, etc.

    Outliers are ignored, so that other values differ in colour.
    """
    scales = []
    for blocks in zip_longest(*columns):
        layers = [layer for block in blocks if block for layer in block.layers]
        values = np.concatenate([layer.strength.numpy().ravel() for layer in layers])
        values = values[values > 0]
        low, high = np.quantile(values, (0.01, 0.99)) if values.size else (0, 0)
        scales.append(Normalize(low, high))
    return scales


def _paint(ax: Axes, rows: Sequence[np.ndarray], scale: Normalize) -> None:
    """Draw matrices below each other, each of height 1 and its columns' width.

    NaN is white; the area to the right of a matrix is grey.
    """
    for i, row in enumerate(rows):
        style = dict(aspect='auto', interpolation='nearest')
        ax.imshow(row, COLOURS, scale, extent=(0, row.shape[1], i + 1, i), **style)
    columns = max(row.shape[1] for row in rows)
    ax.hlines(range(1, len(rows)), 0, columns, color=BORDER, lw=0.5)
    ax.set(facecolor=ABSENT, xlim=(0, columns), ylim=(len(rows), 0))


def _name(axis: Axis, names: Sequence[str]) -> None:
    """Label the rows or columns of a panel, as many as fit."""
    is_x = axis.axis_name == 'x'
    box = axis.axes.bbox
    step = math.ceil(LINE * len(names) / (box.width if is_x else box.height))
    axis.set_ticks(np.arange(len(names))[::step] + 0.5, labels=names[::step])
    axis.set_tick_params(rotation=90 if is_x else 0)


def _spaced(places: Sequence[float], gap: float) -> List[float]:
    """Select ascending positions that differ by at least the gap."""
    shown: List[float] = []
    for place in places:
        if not shown or place - shown[-1] >= gap:
            shown.append(place)
    return shown
