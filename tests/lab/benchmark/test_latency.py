"""The latency benchmark."""

import json
import sys

import pytest
import torch
from conftest import ROOT

from lab.benchmark import NETWORKS, Settings, measure_latency
from lab.benchmark import latency as library
from lab.benchmark.networks import build_network
from mmcdnv2.complexity import count_macs, count_params
from mmcdnv2.layers import condense_layers

QUICK = dict(runtimes=('eager',), size=(64, 64), rounds=1)


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch):
    monkeypatch.setattr(library, 'MATRICES', (64, 128))
    monkeypatch.setattr(library, 'COPIED', 2**16)


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
def test_rejects_bad_settings(settings, sentence):
    with pytest.raises(library.InputError, match=sentence):
        measure_latency(Settings(**{**QUICK, **settings}), ROOT)


def test_leaves_out_what_cannot_run(monkeypatch):
    monkeypatch.setattr(library, 'find_spec', lambda package: None)
    monkeypatch.setattr(library.ops, 'load', lambda: False)
    # A structure with another output.
    monkeypatch.setattr(
        library,
        'condensed_as_the_authors',
        lambda model: torch.nn.Sequential(model, torch.nn.Tanh()),
    )
    threads = torch.get_num_threads()
    settings = Settings(
        **{**QUICK, 'runtimes': ('eager', 'openvino')}, models=('cdnv2_a',), batch=2
    )
    report = measure_latency(settings, ROOT)
    assert [row.model for row in report.rows] == ['cdnv2_a-sparse', 'cdnv2_a-fallback']
    left_out = {name: why for why, names in report.left_out.items() for name in names}
    assert 'openvino or onnxscript is missing' in left_out['openvino']
    assert 'kernels cannot be used' in left_out['cdnv2_a-condensed:eager']
    assert 'output differs' in left_out['cdnv2_a-authors:eager']
    assert report.rows[0].gflops == pytest.approx(
        2e-6 * 2 * report.rows[0].macs / report.rows[0].ms
    )
    assert torch.get_num_threads() == threads

    monkeypatch.setitem(sys.modules, 'timm', None)
    settings = Settings(**QUICK, models=('ghostnet_1.0x',))
    with pytest.raises(library.InputError, match='run: ghostnet_1.0x: timm is missing'):
        measure_latency(settings, ROOT)
