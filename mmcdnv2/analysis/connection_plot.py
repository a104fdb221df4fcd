"""Pictures of the sparse layers' connections (paper, Figs. 6 and 7)."""

from itertools import zip_longest
from pathlib import Path
from typing import List, Sequence, Tuple, Union

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from ..builder import build_model
from ..checkpoint import load_checkpoint, load_weights, weights_of
from ..config import load_config
from ..errors import InputError
from ..files import replace_when_done
from .connection_map import (
    KINDS,
    BlockMap,
    block_maps,
    dense_chains,
    source_strength,
)

# Rows and columns of a layer's map, and what it does to a source's features.
ROLES = {
    'LGC': ('filter group', 'input feature map', 'reads'),
    'SFR': ('input group', 'updated feature map', 'updates'),
}
# Yellow to violet: nothing in it could be taken for white or grey.
COLOURS = colormaps['viridis_r'].with_extremes(bad='white')
ABSENT, BORDER = '0.85', '0.5'

# The layout is in pixels, so that each channel gets at least one and each
# label as many as it needs: a line of small text, and a character of it.
DPI = 100
LINE, CHARACTER = 15, 7
MARGIN = 20
MIN_WIDTH = 720
# Height of a group's row; smallest and largest cell of a map of sources.
GROUP, MIN_CELL, MAX_CELL = 4, 8, 30
BARS_HEIGHT = 200
# A colour bar, its largest height and the space that it takes with its ticks.
SCALE_WIDTH, SCALE_HEIGHT, SCALE_SPACE = 10, 200, 80


def draw_connection_maps(
    models: Sequence[Tuple[str, str]], out: Union[str, Path], trust: bool = False
) -> None:
    """Draw the connection maps of checkpoints side by side.

    Args:
        models (Sequence[tuple[str]]): Config and checkpoint of each. A model
            may be condensed or sparse, its sparsification finished or not.
        out (str | Path): Picture to write, in a format that matplotlib knows.
        trust (bool): Whether the checkpoints may hold more than tensors.

    Raises:
        InputError: If an input cannot be used or a model has no sparse layers.
    """
    formats = Figure().canvas.get_supported_filetypes()
    if Path(out).suffix[1:].lower() not in formats:
        raise InputError(
            f'{out} is no name for a picture: it must end in one of '
            f'{", ".join(sorted(formats))}.'
        )
    titles, columns = [], []
    for config, checkpoint in models:
        model = build_model(load_config(config))
        content = load_checkpoint(checkpoint, trust)
        load_weights(model, weights_of(content), checkpoint)
        blocks = block_maps(model)
        if not blocks:
            raise InputError(
                f'{config} has no LGC and no SFR, so there are no connections to draw.'
            )
        titles.append(f'{Path(config).name}, {Path(checkpoint).name}')
        columns.append(blocks)
    figure = connection_figure(titles, columns)
    with replace_when_done(out) as path:
        figure.savefig(path)


def connection_figure(
    titles: Sequence[str], columns: Sequence[List[BlockMap]]
) -> Figure:
    """Draw the connection maps of models side by side.

    From above: for LGC and for SFR, the strength of each group and channel;
    then the strength of each layer and source, for LGC if it stands in dense
    blocks, else for SFR. Where there are no dense blocks, the strength of each
    layer instead. The strength of weights depends on their number, so there
    each block has a colour scale of its own, which neighbouring blocks
    share; and here each layer has.

    Args:
        titles (Sequence[str]): Titles of the columns.
        columns (Sequence[list[BlockMap]]): The blocks of each model.

    Returns:
        Figure: As large as the networks need it.
    """
    page = _Page(titles, columns)
    by_kind = {
        kind: [[b for b in blocks if b.kind == kind] for blocks in columns]
        for kind in KINDS
    }
    kinds = [kind for kind, chosen in by_kind.items() if any(chosen)]
    for kind in kinds:
        chosen = by_kind[kind]
        row, column, _ = ROLES[kind]
        heading = f'mean |w| of each {row} (rows) and {column} (columns)'
        page.begin(f'(a) {kind}: {heading}', chosen)
        values = [[_strengths(block) for block in blocks] for blocks in chosen]
        scales = _common_scales(values)
        for x, blocks in zip(page.x, chosen):
            _draw_channels(page, x, blocks, scales)

    dense = [
        kind
        for kind in kinds
        if any(len(b.sources) > 1 for blocks in by_kind[kind] for b in blocks)
    ]
    for kind in dense[:1] or kinds:
        chosen = by_kind[kind]
        if dense:
            page.begin(
                f'(b) {kind}: relative mean |w|, 0 where pruned, with which a layer '
                f'(row) {ROLES[kind][2]} the features of a source (column)',
                chosen,
            )
            for x, blocks in zip(page.x, chosen):
                _draw_sources(page, x, dense_chains(blocks))
        else:
            page.begin(f'(b) {kind}: mean |w|, 0 where pruned, of each layer', chosen)
            _draw_bars(page, chosen)
    return page.finish()


class _Page:
    """A figure that is filled from the top and gets its size in the end.

    Places are in pixels from the top left.

    Attributes:
        left (int): Space to the left of a panel, for the layers' labels.
        x (list[int]): Where the columns of panels begin.
        width (int): How wide they are.
        y (int): Where the panels of the present section begin.
    """

    def __init__(
        self, titles: Sequence[str], columns: Sequence[List[BlockMap]]
    ) -> None:
        layers = [layer for blocks in columns for b in blocks for layer in b.layers]
        self.left = CHARACTER * max(len(layer.label) for layer in layers) + LINE
        channels = [layer.strength.size(1) for layer in layers]
        sources = [len(b.sources) for blocks in columns for b in blocks]
        self.width = max(MIN_WIDTH, max(channels), MIN_CELL * max(sources))
        self._pitch = self.left + self.width + SCALE_SPACE + MARGIN
        self.x = [MARGIN + self.left + i * self._pitch for i in range(len(columns))]
        self._figure = Figure(dpi=DPI)
        self._axes: List[Tuple[Axes, float, float, float, float]] = []
        self._texts: List[Tuple[Text, float, float]] = []
        for x, title in zip(self.x, titles):
            self.add_text(x - self.left, MARGIN, title, 11)
        self._bottom = 0.0
        self._add_legend(2 * MARGIN)

    def add_axes(
        self, x: float, y: float, width: float, height: float, below: float = 0
    ) -> Axes:
        """Add a panel and keep the space below it free for its tick labels."""
        ax = self._figure.add_axes((0, 0, 1, 1), label=str(len(self._axes)))
        ax.tick_params(labelsize=8, length=2, pad=2)
        self._axes.append((ax, x, y, width, height))
        self._bottom = max(self._bottom, y + height + below)
        return ax

    def add_scale(
        self, x: float, y: float, height: float, scale: Normalize, label: str
    ) -> None:
        """Add the colour bar of a panel to its right, if it has two ends."""
        if scale.vmin == scale.vmax:
            return
        height = min(height, SCALE_HEIGHT)
        ax = self.add_axes(x + LINE, y, SCALE_WIDTH, height)
        bar = self._figure.colorbar(ScalarMappable(scale, COLOURS), cax=ax)
        ends = [scale.vmin, scale.vmax]
        bar.set_ticks(ends, labels=[f'{end:.2g}' for end in ends])
        # Low panels have no room for it; their neighbours say it for them.
        if height >= CHARACTER * len(label):
            bar.set_label(label, size=8)

    def add_text(self, x: float, y: float, text: str, size: float) -> None:
        """Add a line of text; its middle is at ``y``."""
        artist = self._figure.text(0, 0, text, size=size, va='center')
        self._texts.append((artist, x, y))

    def begin(self, heading: str, columns: Sequence[Sequence[BlockMap]]) -> None:
        """Begin a section below all that there is; say which columns lack it."""
        self.y = self._bottom + 2 * MARGIN
        self.add_text(self.x[0] - self.left, self.y, heading, 10)
        self.y += MARGIN
        self._bottom = self.y
        for x, blocks in zip(self.x, columns):
            if not blocks:
                self.add_text(x, self.y, 'There are none in this network.', 8)

    def finish(self) -> Figure:
        """Fix the size and put everything in its place."""
        width = len(self.x) * self._pitch + MARGIN
        height = self._bottom + MARGIN
        self._figure.set_size_inches(width / DPI, height / DPI)
        for ax, x, y, w, h in self._axes:
            ax.set_position((x / width, 1 - (y + h) / height, w / width, h / height))
        for text, x, y in self._texts:
            text.set_position((x / width, 1 - y / height))
        return self._figure

    def _add_legend(self, y: float) -> None:
        ax = self.add_axes(self.x[0] - self.left, y, self.width, LINE)
        ax.axis('off')
        ax.legend(
            handles=[
                Patch(facecolor='white', edgecolor='black', label='pruned'),
                Patch(facecolor=ABSENT, label='not there: it comes after the layer'),
            ],
            loc='center left',
            borderpad=0,
            borderaxespad=0,
            ncol=2,
            frameon=False,
            fontsize=8,
        )


def _draw_channels(
    page: _Page, x: float, blocks: Sequence[BlockMap], scales: Sequence[Normalize]
) -> None:
    """Draw blocks below each other, and in each its layers below each other."""
    y = page.y
    for block, scale in zip(blocks, scales):
        rows = _strengths(block)
        heights = [max(LINE + 2, GROUP * len(row)) for row in rows]
        height = sum(heights)
        ax = page.add_axes(x, y, page.width, height, below=LINE)
        _paint(ax, rows, heights, scale)
        _label_rows(ax, heights, [layer.label for layer in block.layers])
        if len(block.sources) > 1:
            ticks = [*block.sources.values(), rows[-1].shape[1]]
            pixels = [page.width * tick / ticks[-1] for tick in ticks]
            ax.set_xticks([ticks[i] for i in _spaced(pixels, 6 * CHARACTER)])
            ax.vlines(ticks, 0, height, color=BORDER, lw=0.5)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        page.add_scale(x + page.width, y, height, scale, 'mean |w|')
        y += height + LINE + MARGIN


def _draw_sources(page: _Page, x: float, chains: Sequence[List[BlockMap]]) -> None:
    """Draw a map of layers and sources for each chain, from left to right."""
    between = page.left + SCALE_SPACE
    below = page.left + MARGIN
    left, top, bottom = x, page.y, page.y
    for chain in chains:
        rows = [_relative(row) for row in source_strength(chain).numpy()]
        sources = list(chain[-1].sources)
        cell = min(MAX_CELL, page.width // len(sources))
        height, width = cell * len(rows), cell * len(sources)
        if left > x and left + width > x + page.width:
            left, top = x, bottom
        ax = page.add_axes(left, top, width, height, below)
        heights = [cell] * len(rows)
        scale = Normalize(0, 1)
        _paint(ax, rows, heights, scale)
        _label_rows(ax, heights, [layer.label for b in chain for layer in b.layers])
        _name_columns(ax, width, sources)
        borders = np.cumsum([len(block.layers) for block in chain])[:-1]
        style = dict(color='black', lw=1, ls='--')
        ax.hlines(borders * cell, 0, len(sources), **style)
        # The first column is none of the layers'.
        ax.vlines(borders + 1, 0, height, **style)
        # A single source has nothing to be relative to.
        if len(sources) > 1:
            label = 'relative mean |w| of the row'
            page.add_scale(left + width, top, height, scale, label)
        left += width + between
        bottom = max(bottom, top + height + below)


def _relative(strength: np.ndarray) -> np.ndarray:
    """Row of a layer's sources, from 0 for the weakest to 1 for the strongest.

    NaN, as of pruned channels, where the connection is pruned entirely. What
    comes after the layer is left out.
    """
    row = np.where(strength == 0, np.nan, strength)[None, ~np.isnan(strength)]
    if np.isnan(row).all():
        return row
    low, high = np.nanmin(row), np.nanmax(row)
    # Where all are equal, each one is the strongest.
    return (row - low) / (high - low) if high > low else row / high


def _draw_bars(page: _Page, columns: Sequence[Sequence[BlockMap]]) -> None:
    """Draw a bar for each layer."""
    # Without a dense block, the input is the only source.
    heights = [
        [value for b in blocks for value in source_strength([b])[:, 0].tolist()]
        for blocks in columns
    ]
    top = max(max(strengths, default=0) for strengths in heights)
    for x, blocks, strengths in zip(page.x, columns, heights):
        if not blocks:
            continue
        labels = [layer.label for block in blocks for layer in block.layers]
        ax = page.add_axes(x, page.y, page.width, BARS_HEIGHT, below=page.left)
        ax.bar(np.arange(len(labels)) + 0.5, strengths, color=COLOURS(0.7))
        ax.set_xlim(0, len(labels))
        ax.set_ylim(0, 1.05 * top or 1)
        _name_columns(ax, page.width, labels)


def _strengths(block: BlockMap) -> List[np.ndarray]:
    return [layer.strength.numpy() for layer in block.layers]


def _common_scales(
    columns: Sequence[Sequence[Sequence[np.ndarray]]],
) -> List[Normalize]:
    """Colour scale of the first blocks of all columns, of the second, and so on.

    Outliers do not count, so that they leave the others their colours.
    """
    scales = []
    for blocks in zip_longest(*columns, fillvalue=()):
        values = np.concatenate([array.ravel() for block in blocks for array in block])
        values = values[values > 0]
        low, high = np.quantile(values, (0.01, 0.99)) if values.size else (0, 0)
        scales.append(Normalize(low, high))
    return scales


def _paint(
    ax: Axes, rows: Sequence[np.ndarray], heights: Sequence[float], scale: Normalize
) -> None:
    """Paint matrices below each other, each as wide as it has columns.

    NaN is white; to the right of a matrix it is grey.
    """
    top = 0.0
    for row, height in zip(rows, heights):
        extent = (0, row.shape[1], top + height, top)
        style = dict(aspect='auto', interpolation='nearest', extent=extent)
        ax.imshow(row, COLOURS, scale, **style)
        top += height
    ax.hlines(np.cumsum(heights)[:-1], 0, rows[-1].shape[1], color=BORDER, lw=0.5)
    ax.set_facecolor(ABSENT)
    ax.set_xlim(0, max(row.shape[1] for row in rows))
    ax.set_ylim(top, 0)


def _label_rows(ax: Axes, heights: Sequence[float], labels: Sequence[str]) -> None:
    """Name the layers whose rows have these heights in pixels."""
    centres = np.cumsum(heights) - np.array(heights) / 2
    shown = _spaced(centres, LINE)
    ax.set_yticks([centres[i] for i in shown], [labels[i] for i in shown])


def _name_columns(ax: Axes, width: float, names: Sequence[str]) -> None:
    """Name columns of equal width that fill a panel."""
    centres = np.arange(len(names)) + 0.5
    shown = _spaced(centres * width / len(names), LINE)
    ax.set_xticks(centres[shown], [names[i] for i in shown], rotation=90)


def _spaced(pixels: Union[np.ndarray, Sequence[float]], gap: float) -> List[int]:
    """Indices of the ascending places that leave a gap between each other."""
    shown: List[int] = []
    for i, pixel in enumerate(pixels):
        if not shown or pixel - pixels[shown[-1]] >= gap:
            shown.append(i)
    return shown
