"""Exporting checkpoints: what is written, and that nothing is if it differs."""

import errno
import json
import os
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from conftest import save_checkpoint
from mmengine.config import Config

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

import mmcdnv2.export.export as module  # noqa: E402
from mmcdnv2 import ops  # noqa: E402
from mmcdnv2.builder import build_model  # noqa: E402
from mmcdnv2.deploy import condense_checkpoint  # noqa: E402
from mmcdnv2.errors import InputError  # noqa: E402
from mmcdnv2.export import ExportedFile, export_checkpoint  # noqa: E402
from mmcdnv2.export.networks import Classifier  # noqa: E402
from mmcdnv2.export.tracing import has_dynamo_exporter  # noqa: E402

dynamo_only = pytest.mark.skipif(
    not has_dynamo_exporter(), reason='the older exporter knows one size only'
)


def needs_kernels():
    if not ops.library.load():
        pytest.skip(ops.describe())


@pytest.fixture
def export(tiny_configs, checkpoints, tmp_path):
    def run(name, operators='standard', **options):
        return export_checkpoint(
            tiny_configs[name],
            checkpoints[name],
            tmp_path / f'{name}.onnx',
            operators=operators,
            **options,
        )

    return run


@pytest.mark.parametrize('operators', ['standard', 'native'])
def test_classifier(export, operators, digits):
    if operators == 'native':
        needs_kernels()
    report = export('classifier', operators, dynamic=['batch'])
    assert report.task == 'classification'
    assert 0 < report.difference < 1e-5
    assert all(str(digits) in each for each in report.images)
    file = ExportedFile(report.path, threads=1)
    assert file.metadata.operators == operators
    assert file.metadata.classes == tuple('0123456789')
    assert file.metadata.input.size == (48, 48)
    images = np.random.RandomState(0).randint(0, 256, (5, 3, 48, 48), np.uint8)
    together = file(images)['scores']
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-5)
    one_by_one = [file(each[None])['scores'][0] for each in images]
    np.testing.assert_allclose(together, one_by_one, atol=1e-6)
    assert np.ptp(together, axis=0).max() > 1e-4


@dynamo_only
def test_detector_of_any_size(export, digits):
    needs_kernels()
    report = export('detector', 'native')
    assert report.task == 'detection' and report.boxes > 10
    assert set(report.dynamic) == {'batch', 'height', 'width'}
    file = ExportedFile(report.path, threads=1)
    image = mmcv.imread(str(digits / 'val' / '000000.png')).transpose(2, 0, 1)
    whole = file(image[None])
    assert int(whole['counts'][0]) > 0
    # An image that is padded in the graph, alone and in a batch.
    cut = image[:, :150, :101]
    alone = file(cut[None])
    both = file(np.stack([cut, cut[:, :, ::-1]]))
    for name, value in alone.items():
        np.testing.assert_allclose(both[name][0], value[0], rtol=1e-4, atol=1e-4)
    boxes = alone['boxes'][0]
    assert boxes[:, 0::2].max() <= 101 and boxes[:, 1::2].max() <= 150
    count = int(alone['counts'][0])
    assert count > 0 and (alone['labels'][0, count:] == -1).all()


def test_raw_heads_and_backbones(export, tiny_configs, checkpoints):
    options = {'model.test_cfg.rcnn.mask_thr_binary': 0.9}
    report = export('detector', raw=True, dynamic=[], cfg_options=options)
    # No boxes are made of raw outputs, so none are compared.
    assert report.boxes == 0 and 0 < report.difference < 1e-4
    file = ExportedFile(report.path)
    image = np.zeros((1, 3, *report.size), np.uint8)
    outputs = file(image)
    assert {name.rstrip('0123456789') for name in outputs} == {
        'rpn_cls_score_',
        'rpn_bbox_pred_',
        'proposals',
        'cls_score',
        'bbox_pred',
    }
    assert outputs['cls_score'].shape == (1, outputs['proposals'].shape[1], 11)
    assert file.metadata.raw and file.metadata.mask_threshold == 0.9
    report = export('classifier', part='backbone', dtype='float32', dynamic=[])
    file = ExportedFile(report.path)
    assert file.metadata.task == 'features'
    (features,) = file(np.zeros((1, 3, 48, 48), np.float32)).values()
    assert features.shape == (1, 64, 6, 6)


def test_condensed_checkpoints_give_the_same_file(
    export, tiny_configs, checkpoints, tmp_path
):
    sparse = export('classifier', dynamic=[])
    condensed = condense_checkpoint(
        tiny_configs['classifier'], checkpoints['classifier'], tmp_path
    )
    report = export_checkpoint(
        str(condensed.config),
        str(condensed.checkpoint),
        tmp_path / 'condensed.onnx',
        operators='standard',
        dynamic=[],
    )
    first, second = ExportedFile(sparse.path), ExportedFile(report.path)
    assert first.metadata.weights_sha256 == second.metadata.weights_sha256
    image = np.full((1, 3, 48, 48), 77, np.uint8)
    np.testing.assert_array_equal(first(image)['scores'], second(image)['scores'])


def test_a_full_disk(export, tmp_path, monkeypatch):
    def full(self, content):
        with self.open('wb') as file:
            file.write(content[:9])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / 'classifier.onnx').write_text('an older one')
    monkeypatch.setattr(Path, 'write_bytes', full)
    refused = pytest.raises(
        InputError, match=r'r\.onnx cannot be written .No space left'
    )
    with refused:
        export('classifier')
    assert (tmp_path / 'classifier.onnx').read_text() == 'an older one'
    assert [path.name for path in tmp_path.iterdir()] == ['classifier.onnx']


@pytest.mark.parametrize('name', ['classifier', 'detector'])
def test_a_file_that_differs_is_not_kept(export, name, tmp_path, monkeypatch):
    open_engine = module.open_engine
    (tmp_path / f'{name}.onnx').write_text('an older one')

    def wrong(*args):
        run = open_engine(*args)

        def changed(inputs):
            outputs = run(inputs)
            output = next(n for n in outputs if n.startswith(('logits', 'scores')))
            outputs[output] = outputs[output] * np.float32(1.01)
            return outputs

        return changed

    monkeypatch.setattr(module, 'open_engine', wrong)
    with pytest.raises(InputError, match='nothing was written'):
        export(name, dynamic=[])
    assert (tmp_path / f'{name}.onnx').read_text() == 'an older one'
    assert [path.name for path in tmp_path.iterdir()] == [f'{name}.onnx']


def test_refuses_what_cannot_be_exported(
    export, tiny_configs, checkpoints, tmp_path, monkeypatch
):
    for options, message in (
        (dict(operators='own'), 'operators must be native or standard'),
        (dict(engine='tensorrt'), 'engine must be onnxruntime or openvino'),
        (dict(operators='native', engine='openvino'), 'does not know the native'),
        (dict(dynamic=['depth']), 'dynamic takes batch, height, width, got depth'),
        (dict(images=['missing.png']), 'missing.png is not an image'),
        (dict(input_shape=(0, -5)), 'at least 32 pixels high and wide, got 0 x -5'),
    ):
        with pytest.raises(InputError, match=message):
            export('classifier', **options)
    unfinished = save_checkpoint(
        tiny_configs['classifier'], tmp_path / 'unfinished.pth', progress=0.3
    )
    with pytest.raises(InputError, match='unfinished in'):
        export_checkpoint(tiny_configs['classifier'], unfinished, tmp_path / 'x.onnx')
    with pytest.raises(InputError, match='must end with .onnx'):
        export_checkpoint(
            tiny_configs['classifier'], checkpoints['classifier'], tmp_path / 'x.pth'
        )
    monkeypatch.setattr('mmcdnv2.export.engines.find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install onnx onnxscript onnxruntime'):
        export('classifier')
    assert not list(tmp_path.glob('*.onnx')) and not list(tmp_path.glob('.*'))


def test_names_a_head_that_predicts_otherwise(tiny_configs):
    cfg = Config.fromfile(tiny_configs['classifier'])
    cfg.model.head = dict(
        type='MultiLabelLinearClsHead', num_classes=10, in_channels=64
    )
    with pytest.raises(InputError, match='MultiLabelLinearClsHead cannot be exported'):
        Classifier(build_model(cfg))


@pytest.mark.parametrize(
    ('name', 'weight'),
    [
        ('classifier', 'head.layers.0.fc.bias'),
        ('detector', 'roi_head.bbox_head.fc_cls.bias'),
    ],
)
def test_refuses_weights_that_are_no_numbers(
    name, weight, tiny_configs, checkpoints, tmp_path
):
    content = torch.load(checkpoints[name], weights_only=True)
    content['state_dict'][weight][0] = float('nan')
    torch.save(content, tmp_path / 'nan.pth')
    with pytest.raises(InputError, match=f'{weight} that are no finite numbers'):
        export_checkpoint(
            tiny_configs[name], str(tmp_path / 'nan.pth'), tmp_path / 'x.onnx'
        )


def test_shows_as_much_of_the_image_at_another_size(export):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='ResizeEdge', scale=64, edge='short'),
        dict(type='CenterCrop', crop_size=48),
        dict(type='PackInputs'),
    ]
    report = export(
        'classifier',
        cfg_options={'test_dataloader.dataset.pipeline': pipeline},
        input_shape=(96, 96),
        dynamic=[],
    )
    resize, crop = ExportedFile(report.path).metadata.preprocess
    assert (resize['size'], crop['size']) == (128, [96, 96])


def test_one_size_only(export, tmp_path):
    options = dict(input_shape=(64, 64), dynamic=[])
    report = export('classifier', cfg_options=resize(64), **options)
    file = ExportedFile(report.path)
    assert file.metadata.input.size == (64, 64)
    with pytest.raises(InputError, match='height 48 instead of 64.*dimensions dynamic'):
        file(np.zeros((1, 3, 48, 48), np.uint8))
    with pytest.raises(InputError, match='batch 2 instead of 1'):
        file(np.zeros((2, 3, 64, 64), np.uint8))


def resize(side):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=side),
        dict(type='PackInputs'),
    ]
    return {'test_dataloader.dataset.pipeline': pipeline}


def test_test_data_in_wrappers(export, tiny_configs, digits):
    options = resize(96)
    config = Config.fromfile(tiny_configs['classifier'])
    config.merge_from_dict(options)
    wrapped = dict(type='ConcatDataset', datasets=[config.test_dataloader.dataset])
    report = export(
        'classifier',
        cfg_options={'test_dataloader.dataset': dict(wrapped, _delete_=True)},
        dynamic=[],
    )
    (step,) = ExportedFile(report.path).metadata.preprocess
    assert (step['mode'], step['size']) == ('stretch', [96, 96])
    assert report.size == (96, 96)
    # Images of the test data, not photographs.
    assert all(str(digits) in each for each in report.images)


def test_steps_are_compared_with_the_configs_own_pipeline(export, monkeypatch):
    """An option that no step has changes pixels: nothing is written."""
    pipeline = resize(64)['test_dataloader.dataset.pipeline']
    pad = dict(type='Pad', size=(80, 80), padding_mode='reflect')
    options = {'test_dataloader.dataset.pipeline': [*pipeline[:2], pad, pipeline[2]]}
    with pytest.raises(InputError, match='gives other pixels of .*png than the steps'):
        export('classifier', cfg_options=options, dynamic=[])
    # Nor if it is the reading of the steps that fails.
    monkeypatch.setattr(module, 'steps_of', lambda cfg: [])
    with pytest.raises(InputError, match='gives other pixels of .*png than the steps'):
        export('classifier', cfg_options=resize(64), dynamic=[])


def test_a_smallest_size_that_is_the_original_images(retina_config, tmp_path):
    """MMDetection applies it after it scaled the boxes back."""
    checkpoint = save_checkpoint(retina_config, tmp_path / 'retina.pth')
    options = {'model.test_cfg.min_bbox_size': 5}
    with pytest.raises(InputError, match='test_cfg.min_bbox_size=5 cannot be exported'):
        export_checkpoint(
            retina_config, checkpoint, tmp_path / 'x.onnx', cfg_options=options
        )


def test_no_test_data(export):
    options = dict(cfg_options=dict(test_dataloader=None), dynamic=[])
    with pytest.raises(InputError, match='has no test pipeline, .*: set test_dataload'):
        export('classifier', **options)
    report = export('classifier', part='backbone', **options)
    assert ExportedFile(report.path).metadata.preprocess == []


def test_tool(run, tiny_configs, checkpoints, tmp_path, capsys):
    out = tmp_path / 'tool.onnx'
    arguments = [tiny_configs['classifier'], checkpoints['classifier'], out]
    options = ['--operators', 'standard', '--json', tmp_path / 'report.json']
    assert run('export.py', *arguments, *options, '--dynamic') == 0
    printed = capsys.readouterr().out
    assert 'Largest relative difference' in printed and 'dynamic: none' in printed
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['path'] == str(out) and report['difference'] < 1e-5
    assert ExportedFile(out).metadata.preprocess == []
    status = run('export.py', *arguments[:2], tmp_path / 'x.txt')
    assert status.startswith('error: The file to write must end with .onnx')


def test_looks_whether_it_can_write(run, tiny_configs, tmp_path):
    (tmp_path / 'file').write_text('old')
    arguments = [tiny_configs['classifier'], 'not-read.pth']
    for options in (['file/x.onnx'], ['x.onnx', '--json', tmp_path / 'file/x']):
        status = run('export.py', *arguments, tmp_path / options[0], *options[1:])
        assert status.startswith(f'error: {tmp_path}/file cannot be a folder: ')
    assert [path.name for path in tmp_path.iterdir()] == ['file']
