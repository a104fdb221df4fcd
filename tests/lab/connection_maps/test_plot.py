"""Plots of connection maps: colours, labels and errors."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmdet.models import FPN
from mmengine.config import Config
from PIL import Image

from lab.connection_maps import block_maps, lgc_chains, measure_use
from lab.connection_maps.block_map import BlockMap, LayerMap
from lab.connection_maps.plot import (
    connection_figure,
    draw_connection_maps,
    titles_of,
)
from mmcdnv2.backbones import SFRShuffleNetV2
from mmcdnv2.builder import build_model
from mmcdnv2.checkpoint import load_checkpoint, load_weights
from mmcdnv2.deploy.condense import condensed_config
from mmcdnv2.errors import InputError
from mmcdnv2.layers import condense_layers

NAN = float('nan')
COLOURS = dict(
    strong=(68, 1, 84), weak=(253, 231, 37), white=(255, 255, 255), grey=(217, 217, 217)
)


def make_block(kind, strengths, sources, prefix=''):
    layers = [
        LayerMap(f'net.{prefix}{i}', f'{prefix}{i}', torch.tensor(strength))
        for i, strength in enumerate(strengths)
    ]
    return BlockMap(kind, layers, sources)


def random_blocks(depths, growth=4, groups=4, kinds=('LGC', 'SFR'), chained=True):
    """Return blocks of a network with these depths, three quarters pruned."""
    torch.manual_seed(0)
    blocks = []
    for kind in kinds:
        channels, sources = 2 * growth, {'input': 0}
        for number, depth in enumerate(depths):
            if not chained:
                channels, sources = 2 * growth, {'input': 0}
            columns = [channels + growth * i for i in range(depth)]
            strengths = [torch.rand(groups, c) for c in columns]
            for strength in strengths:
                strength[torch.rand_like(strength) < 0.75] = NAN
            strengths = [strength.tolist() for strength in strengths]
            new = {f'{number}.{i}': c for i, c in enumerate(columns)}
            known = {**sources, **dict(list(new.items())[:-1])}
            blocks.append(make_block(kind, strengths, known, f'{number}.'))
            channels, sources = columns[-1] + growth, {**sources, **new}
    return blocks


def draw(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def colour_at(pixels, ax, x, y):
    """Return the name of the colour at a position of a panel, if known."""
    column, row = ax.transData.transform((x, y))
    pixel = pixels[pixels.shape[0] - 1 - int(row), int(column), :3].astype(int)
    names = [n for n, rgb in COLOURS.items() if np.abs(pixel - rgb).max() < 3]
    return names[0] if names else None


def panels(figure):
    """Return the panels with images."""
    return [ax for ax in figure.axes if ax.images]


def test_colours():
    first = [[1.0, NAN], [NAN, 2.0]]
    second = [[1.0, NAN, NAN, 0.0], [NAN, NAN, NAN, 9.0]]
    third = [[4.0, NAN, NAN, NAN, 2.0], [NAN, NAN, NAN, NAN, 2.0]]
    block = make_block('LGC', [first, second, third], {'input': 0, '0': 2, '1': 4})
    figure = connection_figure(['title'], [[block]])
    channels, sources = panels(figure)
    pixels = draw(figure)
    # Layers have height 1, each of their two groups 1/2.
    assert colour_at(pixels, channels, 0.5, 0.25) == 'weak'
    assert colour_at(pixels, channels, 1.5, 0.25) == 'white'
    assert colour_at(pixels, channels, 0.5, 0.75) == 'white'
    assert colour_at(pixels, channels, 3.5, 0.25) == 'grey'
    # Zero but kept.
    assert colour_at(pixels, channels, 3.5, 1.25) == 'weak'
    assert colour_at(pixels, channels, 3.5, 1.75) == 'strong'
    # Cells of size 1x1 with values 3/4; 1/4 and 9/4; 1, 0 and 2.
    assert colour_at(pixels, sources, 0.5, 0.5) == 'strong'
    assert colour_at(pixels, sources, 0.5, 1.5) == 'weak'
    assert colour_at(pixels, sources, 1.5, 1.5) == 'strong'
    assert colour_at(pixels, sources, 2.5, 1.5) == 'grey'
    assert colour_at(pixels, sources, 0.5, 2.5) == 'weak'
    assert colour_at(pixels, sources, 1.5, 2.5) == 'white'
    assert colour_at(pixels, sources, 2.5, 2.5) == 'strong'
    columns, rows = sources.get_xticklabels(), sources.get_yticklabels()
    assert [label.get_text() for label in columns] == ['input', '0', '1']
    assert [label.get_text() for label in rows] == ['0', '1', '2']


def test_one_map_of_all_blocks():
    """Rows are scaled separately; dashed lines separate the blocks."""
    rows = [[[8.0]], [[7.0, 3.0]], [[0.02, NAN, 0.01]], [[1.0, 5.0, 3.0, 2.0]]]
    sources = {'input': 0, '0.0': 1, '1.0': 2, '1.1': 3}
    first = make_block('LGC', rows[:1], {'input': 0}, '0.')
    second = make_block('LGC', rows[1:], sources, '1.')
    figure = connection_figure(['title'], [[first, second]])
    *_, ax = panels(figure)
    pixels = draw(figure)
    seen = [
        [colour_at(pixels, ax, i + 0.5, j + 0.5) for i in range(4)] for j in range(4)
    ]
    assert seen == [
        ['strong', 'grey', 'grey', 'grey'],
        ['strong', 'weak', 'grey', 'grey'],
        ['strong', 'white', 'weak', 'grey'],
        ['weak', 'strong', None, None],
    ]
    halfway, quarter = ax.images[3].get_array()[0, 2:]
    assert (halfway, quarter) == (0.5, 0.25)
    dashed = [
        lines.get_segments()[0].tolist()
        for lines in ax.collections
        if lines.get_linestyle()[0][1] is not None
    ]
    # The last layer of block 0 is the second source, after the stem.
    assert dashed == [[[0, 1], [4, 1]], [[2, 0], [2, 4]]]
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == list(sources)


def test_one_value_has_no_colour_scale():
    equal, different = [[[2.0, NAN]]], [[[2.0, 3.0]]]
    for strengths, scales in ((equal, 0), (different, 1), ([[[0.0, NAN]]], 0)):
        block = make_block('SFR', strengths, {'input': 0})
        figure = connection_figure(['title'], [[block]])
        draw(figure)
        # The legend, the panel and the bar plot.
        assert len(figure.axes) == 3 + scales
    weak = panels(figure)[0]
    assert colour_at(draw(figure), weak, 0.5, 0.5) == 'weak'


def test_compared_models_share_their_scales():
    weak = random_blocks((3,), kinds=('LGC', 'SFR'))
    strong = random_blocks((3,), kinds=('LGC',))
    for layer in strong[0].layers:
        layer.strength.mul_(10)
    figure = connection_figure(['with SFR', 'without'], [weak, strong])
    # Three panels in the first column, two in the second, which has no SFR.
    by_column = {}
    for ax in panels(figure):
        by_column.setdefault(ax.get_position().x0 > 0.5, []).append(ax)
    assert [len(column) for column in by_column.values()] == [3, 2]
    # Panels at the same height have the same scale.
    limits = {
        column: {round(ax.get_position().y0, 6): ax.images[0].get_clim() for ax in axes}
        for column, axes in by_column.items()
    }
    assert limits[True].items() <= limits[False].items()
    assert max(high for _, high in limits[True].values()) > 5
    texts = [text.get_text() for text in figure.texts]
    assert {'with SFR', 'without', 'This network has none.'} <= set(texts)


@pytest.mark.parametrize(
    'columns',
    [
        [random_blocks((12, 12, 12))],
        [
            random_blocks((1, 1, 4), groups=8),
            random_blocks((110,), growth=1, groups=1, kinds=('LGC',)),
        ],
        [random_blocks((3, 1, 12, 4, 9), chained=False)],
        # Without known sources, bars are drawn.
        [[make_block('SFR', 110 * [[[1.0, NAN]]], {'input': 0}, 'layers.')]],
        [[make_block('SFR', [[[0.0016, NAN]]], {'input': 0})]],
    ],
    ids=['36 layers', '110 layers next to 6', 'separate blocks', 'bars', 'one bar'],
)
def test_nothing_overlaps(columns):
    figure = connection_figure(len(columns) * ['a'], columns)
    height, width, _ = draw(figure).shape
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            boxes = [
                label.get_window_extent()
                for label in axis.get_ticklabels()
                if label.get_text()
            ]
            assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:]))
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    boxes += [text.get_window_extent() for text in figure.texts]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (a, b)
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= height for box in boxes)
    # Each channel has at least one pixel.
    for ax in panels(figure):
        assert ax.get_window_extent().width >= ax.get_xlim()[1]


def test_titles_are_unique():
    models = [('out/a/c.py', 'out/a/e.pth'), ('out/b/c.py', 'out/b/e.pth')]
    assert titles_of(models) == ['a/c.py, a/e.pth', 'b/c.py, b/e.pth']
    assert titles_of([('x/c.py', 'x/e.pth'), ('x/d.py', 'e.pth')])[1] == 'd.py, e.pth'
    assert titles_of(2 * [('x/c.py', 'x/e.pth')]) == 2 * ['c.py, e.pth']


def test_low_panel_next_to_a_high_one():
    """Their tops are aligned, and layers have the same height in both."""
    high = random_blocks((5,), groups=8, kinds=('LGC',))
    low = random_blocks((2,), groups=8, kinds=('LGC',))
    figure = connection_figure(['a', 'b'], [low, high])
    draw(figure)
    boxes = [ax.get_window_extent() for ax in panels(figure)]
    for (low, high), layer in ((boxes[:2], 32), (boxes[2:], 30)):
        assert low.y1 == pytest.approx(high.y1)
        assert low.height == pytest.approx(2 * layer)
        assert high.height == pytest.approx(5 * layer)


def test_bars_without_known_sources():
    block = make_block('SFR', [[[1.0, NAN]], [[3.0, 4.0]]], {'input': 0})
    figure = connection_figure(['a'], [[block]])
    (bars,) = (ax for ax in figure.axes if ax.containers)
    assert [bar.get_height() for bar in bars.patches] == [0.5, 3.5]


TOOL = 'analysis_tools/connection_map.py'


def test_tool_draws_sparse_next_to_condensed(
    run, tiny_configs, checkpoints, tmp_path, capsys
):
    sparse = (tiny_configs['classifier'], checkpoints['classifier'])
    cfg = Config.fromfile(sparse[0])
    model = build_model(cfg)
    load_weights(model, load_checkpoint(sparse[1])['state_dict'], sparse[1])
    condense_layers(model)
    condensed = (tmp_path / 'condensed.py', tmp_path / 'condensed.pth')
    condensed_config(cfg).dump(condensed[0])
    torch.save(model.state_dict(), condensed[1])
    out = tmp_path / 'new' / 'map.png'
    assert run(TOOL, *sparse, '--out', out, '--compare', *condensed) == 0
    pixels = np.asarray(Image.open(out).convert('RGB'), dtype=int)
    # Below the titles, both columns are equal.
    left, right = np.split(pixels[80:], 2, axis=1)
    headings = (left != right).any(2).any(1)
    assert headings.mean() < 0.1
    assert (left == COLOURS['strong']).all(2).sum() > 100
    (chain,) = lgc_chains(block_maps(model))
    numbers = ['-' if n is None else f'{n:.2f}' for n in measure_use(chain).values()]
    expected = ['0.0 to 2.1', *numbers]
    lines = [line.split('│') for line in capsys.readouterr().out.splitlines()]
    tables = [[cell.strip() for cell in line[2:-1]] for line in lines if line[1:]]
    assert [cells for cells in tables if '0.0 to 2.1' in cells] == 2 * [expected]


def test_tool_prints_that_a_shufflenet_has_no_measures(run, tmp_path, capsys):
    config, checkpoint = tmp_path / 'config.py', tmp_path / 'weights.pth'
    config.write_text(
        "custom_imports = dict(imports=['mmcdnv2'])\n"
        "model = dict(type='mmdet.SFRShuffleNetV2', widen_factor=0.5)\n"
    )
    torch.save(SFRShuffleNetV2(0.5).state_dict(), checkpoint)
    assert run(TOOL, config, checkpoint, '--out', tmp_path / 'a.png') == 0
    text = capsys.readouterr().out
    assert 'weights.pth has no LGCs in dense blocks' in text.replace('\n', ' ')
    assert 'early use' not in text


def test_tool_rejects_bad_input(run, tiny_configs, checkpoints, tmp_path):
    files = (tiny_configs['classifier'], checkpoints['classifier'])
    assert 'it must end in one of' in run(TOOL, *files, '--out', tmp_path / 'a.txt')
    assert 'There is no checkpoint' in run(TOOL, files[0], 'none.pth', '--out', 'a.png')
    other = (tiny_configs['detector'], files[1])
    error = run(TOOL, *files, '--out', tmp_path / 'a.png', '--compare', *other)
    assert 'does not hold the weights' in error
    assert not list(tmp_path.iterdir())


def test_rejects_networks_without_sparse_layers(tmp_path):
    config, checkpoint = tmp_path / 'config.py', tmp_path / 'weights.pth'
    config.write_text(
        "model = dict(type='mmdet.FPN', in_channels=[4], out_channels=4, num_outs=1)"
    )
    torch.save(FPN([4], 4, 1).state_dict(), checkpoint)
    with pytest.raises(InputError, match='has no LGC and no SFR'):
        draw_connection_maps([(config, checkpoint)], tmp_path / 'a.png')
