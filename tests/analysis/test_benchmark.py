"""Timing networks against each other."""

import copy
import json
import sys
from importlib.util import find_spec

import pytest
import torch
from conftest import ROOT, randomise_norms

from mmcdnv2.analysis import benchmark as library
from mmcdnv2.analysis import count_macs, count_params
from mmcdnv2.analysis.authors_structure import GatherFirstLGC, with_authors_structure
from mmcdnv2.analysis.benchmark import Report, Row, Settings, benchmark, model_names
from mmcdnv2.analysis.benchmark_networks import NETWORKS, build_network, read_top1
from mmcdnv2.analysis.benchmark_plot import latency_figure
from mmcdnv2.analysis.runtimes import RUNTIMES, Job, as_tensors
from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.layers import CondensedSFR, condense_layers, sparse_layers

TINY = dict(
    depths=(1, 2),
    growth_rates=(8, 16),
    groups=4,
    condense_factor=2,
    sparse_factor=4,
    se_from=1,
)
QUICK = dict(runtimes=('eager',), size=(64, 64), rounds=1)


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch):
    monkeypatch.setattr(library, 'MATRICES', (64, 128))
    monkeypatch.setattr(library, 'COPIED', 2**16)


@torch.no_grad()
def test_authors_structure_gives_the_same_output():
    torch.manual_seed(0)
    model = CondenseNetV2(TINY, out_indices=(0, 1))
    randomise_norms(model)
    for layer in sparse_layers(model).values():
        layer.set_progress(1)
    model.switch_to_deploy()
    model.eval()
    before = copy.deepcopy(model.state_dict())
    theirs = with_authors_structure(model)
    x = torch.randn(2, 3, 16, 16)
    for expected, actual in zip(model(x), theirs(x)):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)

    layer = theirs.blocks[1].get_submodule('1')
    assert isinstance(layer.lgc, GatherFirstLGC)
    # Two groups of four each read half of the features, so they are copied.
    assert layer.lgc.norm.num_features == 2 * layer.sfr.conv.places.size(0)
    assert not [m for m in theirs.modules() if isinstance(m, CondensedSFR)]
    # The condensed model is as it was.
    assert before.keys() == model.state_dict().keys()


def test_tool(run, tmp_path, capsys):
    models = ('--models', 'cdnv2_a-fallback', 'cdnv2_a-authors', '--runtimes', 'eager')
    sizes = ('--size', 64, 64, '--size', 32, 64)
    options = ('--rounds', 1, '--baseline', 'cdnv2_a-authors:eager')
    arguments = (*models, *sizes, *options, '--out', tmp_path)
    assert run('analysis_tools/benchmark.py', *arguments) == 0
    assert 'cdnv2_a-authors' in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        'classifier.json',
        'classifier_64x64.png',
        'classifier_32x64.png',
    }
    reports = json.loads((tmp_path / 'classifier.json').read_text())
    assert [report['settings']['size'] for report in reports] == [[64, 64], [32, 64]]
    report = reports[0]
    fallback, authors = report['rows']
    assert (fallback['form'], authors['form']) == ('fallback', 'authors')
    assert authors['ratio'] == 1
    network = build_network(NETWORKS['cdnv2_a'], 'classifier', ROOT)
    condense_layers(network)
    macs = count_macs(network, torch.rand(1, 3, 64, 64))
    for row in report['rows']:
        assert row['macs'] == macs
        assert row['params'] == count_params(network)
        assert row['gflops'] == pytest.approx(2e-6 * macs / row['ms'])
        assert row['product_share'] == pytest.approx(
            row['gflops'] / report['product_gflops']
        )
        assert row['ratio'] == pytest.approx(row['ms'] / authors['ms'])
        assert row['top1'] == 64.4
        assert row['difference'] < 1e-4
        assert row['times'] == [row['ms']]
        assert row['spread'] == 0


@pytest.mark.parametrize(
    ('settings', 'sentence'),
    [
        (dict(models=('resnet',)), 'There is no model resnet: choose from cdnv2_a'),
        (
            dict(models=('cdnv2_a-authors',), baseline='cdnv2_a-sparse:eager'),
            'baseline cdnv2_a-sparse:eager is not measured: choose from '
            'cdnv2_a-authors:eager',
        ),
        (dict(rounds=0), 'rounds must be at least 1'),
        (dict(size=(16, 64)), 'at least 32 pixels high and wide, got 16 x 64'),
        (dict(threads=10000), '10000 threads need as many cores'),
    ],
)
def test_input_errors(settings, sentence):
    with pytest.raises(library.InputError, match=sentence):
        benchmark(Settings(**{**QUICK, **settings}), ROOT)


def test_what_cannot_run_is_left_out(monkeypatch):
    monkeypatch.setattr(library, 'find_spec', lambda package: None)
    monkeypatch.setattr(library.ops, 'load', lambda: False)
    # A structure that computes something else.
    monkeypatch.setattr(
        library,
        'with_authors_structure',
        lambda model: torch.nn.Sequential(model, torch.nn.Tanh()),
    )
    threads = torch.get_num_threads()
    settings = Settings(
        **{**QUICK, 'runtimes': ('eager', 'openvino')}, models=('cdnv2_a',), batch=2
    )
    report = benchmark(settings, ROOT)
    assert [row.model for row in report.rows] == ['cdnv2_a-sparse', 'cdnv2_a-fallback']
    left_out = {name: why for why, names in report.left_out.items() for name in names}
    assert 'openvino or onnxscript is missing' in left_out['openvino']
    assert 'kernels cannot be used here' in left_out['cdnv2_a-condensed:eager']
    assert 'output differs' in left_out['cdnv2_a-authors:eager']
    assert report.rows[0].gflops == pytest.approx(
        2e-6 * 2 * report.rows[0].macs / report.rows[0].ms
    )
    assert torch.get_num_threads() == threads

    monkeypatch.setitem(sys.modules, 'timm', None)
    settings = Settings(**QUICK, models=('ghostnet_1.0x',))
    with pytest.raises(library.InputError, match='run: ghostnet_1.0x: timm is missing'):
        benchmark(settings, ROOT)


@pytest.mark.parametrize('name', ['onnxruntime', 'openvino'])
@torch.no_grad()
def test_runtime_gives_the_same_output(name):
    runtime = RUNTIMES[name]
    if not all(map(find_spec, runtime.packages)):
        pytest.skip(f'{name} is not installed')
    # Its groups update the same outputs, which exporters may get wrong.
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), CondensedSFR(16, 8, groups=4, sparse_factor=2)
    ).eval()
    x = torch.randn(1, 3, 8, 8)
    call = runtime.prepare(Job(network, x, threads=1, kernels=False))
    [actual] = as_tensors(call())
    torch.testing.assert_close(actual, network(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ('name', 'strides', 'params'),
    [
        ('cdnv2_a', (4, 8, 16, 32), None),
        # Less the last 1x1 convolution and its norm.
        ('shufflenetv2_0.5x', (8, 16, 32), 1366792 - 192 * 1024 - 2048 - 1025000),
        ('mobilenetv2', (4, 8, 16, 32), 3504872 - 320 * 1280 - 2560 - 1281000),
        ('mobilenetv3_large', (4, 8, 16, 32), None),
        ('ghostnet_1.0x', (4, 8, 16, 32), None),
    ],
)
@torch.no_grad()
def test_backbones_end_with_the_last_stage_returned(name, strides, params):
    if NETWORKS[name].config.startswith('timm'):
        pytest.importorskip('timm')
    backbone = build_network(NETWORKS[name], 'backbone', ROOT)
    outs = as_tensors(backbone(torch.rand(1, 3, 64, 64)))
    assert [64 // out.size(-1) for out in outs] == list(strides)
    if params:
        assert count_params(backbone) == params


def test_names_in_the_picture_do_not_overlap():
    top1 = read_top1(ROOT)
    assert top1['sfr_shufflenetv2_0.5x'][0] is None
    assert all(source for accuracy, source in top1.values() if accuracy)
    rows = []
    for name in model_names():
        network, _, form = name.partition('-')
        family = NETWORKS[network].family
        for i, runtime in enumerate(RUNTIMES):
            zeros = dict(
                spread=0, ratio=1, macs=1, gflops=1, product_share=1, copy_share=1
            )
            measured = dict(params=1, difference=0.0, times=[9.0 + i, 10.0 + i])
            accuracy = dict(zip(('top1', 'source'), top1[network]))
            rows.append(
                Row(
                    network,
                    form,
                    runtime,
                    family,
                    ms=9.5 + i,
                    **zeros,
                    **measured,
                    **accuracy,
                )
            )
    report = Report(Settings(), dict(processor='some processor'), 1.0, 1.0, rows, {})
    figure = latency_figure(report)
    figure.canvas.draw()
    assert [ax.get_title() for ax in figure.axes] == list(RUNTIMES)
    for ax in figure.axes[1::2]:
        boxes = [text.get_window_extent() for text in ax.texts]
        assert len(boxes) == 11
        boxes.sort(key=lambda box: box.y0)
        for below, above in zip(boxes, boxes[1:]):
            assert below.y1 <= above.y0 + 2
        assert all(box.x1 <= figure.bbox.width for box in boxes)
