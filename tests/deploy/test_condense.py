"""Condensing whole models: the written files give the same outputs."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_checkpoint
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmpretrain.apis import ImageClassificationInferencer, get_model

import mmcdnv2.deploy.condense as module
from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.builder import build_model
from mmcdnv2.checkpoint import load_checkpoint
from mmcdnv2.complexity import count_params
from mmcdnv2.deploy import condense_checkpoint
from mmcdnv2.deploy.condense import condensed_config
from mmcdnv2.engine import SparsificationHook
from mmcdnv2.errors import InputError, UntrustedError
from mmcdnv2.layers import SFR, CondensedSFR, sparse_layers


@pytest.fixture
def image(digits):
    return str(digits / 'val' / '000000.png')


def run_condense(name, tiny_configs, checkpoints, out_dir, **kwargs):
    return condense_checkpoint(
        tiny_configs[name], checkpoints[name], out_dir, input_shape=(64, 96), **kwargs
    )


def test_classifier(tiny_configs, checkpoints, tmp_path, image):
    report = run_condense('classifier', tiny_configs, checkpoints, tmp_path)
    sparse = get_model(tiny_configs['classifier'], checkpoints['classifier'])
    condensed = get_model(str(report.config), str(report.checkpoint))
    assert not sparse_layers(condensed)
    x = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(
            condensed.eval()(x), sparse.eval()(x), atol=1e-4, rtol=0
        )
    assert report.params == (count_params(sparse), count_params(condensed))
    scores = [
        ImageClassificationInferencer(*files, device='cpu')(image)[0]['pred_scores']
        for files in (
            (tiny_configs['classifier'], checkpoints['classifier']),
            (str(report.config), str(report.checkpoint)),
        )
    ]
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_detector(tiny_configs, checkpoints, tmp_path, image):
    report = run_condense(
        'detector', tiny_configs, checkpoints, tmp_path / 'new', image=image
    )
    assert report.input_shape == (64, 96)
    assert report.max_difference < 1e-4
    assert report.kept_fraction == 0.25
    assert report.macs[1] < report.macs[0]
    backbone = Config.fromfile(tiny_configs['detector']).model.backbone
    files = (str(report.config), str(report.checkpoint))
    assert Config.fromfile(files[0]).model.backbone == dict(backbone, deploy=True)
    results = []
    for config, checkpoint in (
        (tiny_configs['detector'], checkpoints['detector']),
        files,
    ):
        model = init_detector(config, checkpoint, device='cpu')
        assert model.dataset_meta['classes'] == tuple('0123456789')
        results.append(inference_detector(model, image).pred_instances)
    sparse, condensed = results
    assert len(sparse) > 0
    torch.testing.assert_close(condensed.scores, sparse.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(condensed.bboxes, sparse.bboxes, atol=1e-2, rtol=0)

    inferencer = DetInferencer(*files, device='cpu', show_progress=False)
    scores = inferencer(image)['predictions'][0]['scores']
    np.testing.assert_allclose(scores, condensed.scores, atol=1e-6)


def test_condensed_config(tiny_configs):
    cfg = Config.fromfile(tiny_configs['detector'])
    cfg.custom_hooks.append(dict(type='EMAHook'))
    cfg.custom_hooks.append(dict(type='EmptyCacheHook'))
    cfg.load_from = 'somewhere.pth'
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='a.pth')
    cfg.model.neck.conv_cfg = dict(type='SFR', sparse_factor=2)
    before = copy.deepcopy(cfg)
    condensed = condensed_config(cfg)
    assert cfg.to_dict() == before.to_dict()
    assert condensed.model.backbone.deploy
    assert 'init_cfg' not in condensed.model.backbone
    assert condensed.model.neck.conv_cfg.type == CondensedSFR.__name__
    assert condensed.custom_hooks == [dict(type='EmptyCacheHook')]
    assert condensed.load_from is None


def test_rejects_unfinished_sparsification(tiny_configs, tmp_path):
    checkpoint = save_checkpoint(
        tiny_configs['detector'], tmp_path / 'half.pth', progress=0.2
    )
    out_dir = tmp_path / 'out'
    with pytest.raises(InputError) as error:
        condense_checkpoint(
            tiny_configs['detector'], checkpoint, out_dir, input_shape=(64, 64)
        )
    message = str(error.value)
    assert 'unfinished in 8 of 8 layers' in message
    assert 'use one that was saved after the last pruning' in message
    assert (
        'backbone.blocks.0.0.lgc.conv keeps 12 of 16 channels per group, must come '
        'down to 4' in message
    )
    assert not out_dir.exists()


def test_rejects_different_outputs(tiny_configs, checkpoints, tmp_path, monkeypatch):
    def wrong_copy(model):
        model = copy.deepcopy(model)
        module.condense_layers(model)
        model.backbone.blocks[0][0].lgc.conv.index[0] += 1
        return model

    monkeypatch.setattr(module, '_condensed_copy', wrong_copy)
    with pytest.raises(InputError, match='differs from the sparse one'):
        run_condense('classifier', tiny_configs, checkpoints, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_rejects_models_without_sparse_layers(tiny_configs, checkpoints, tmp_path):
    report = run_condense('classifier', tiny_configs, checkpoints, tmp_path)
    with pytest.raises(InputError, match='no sparse layers to condense'):
        condense_checkpoint(
            str(report.config), str(report.checkpoint), tmp_path / 'again'
        )


def test_rejects_a_checkpoint_of_another_network(tiny_configs, checkpoints, tmp_path):
    with pytest.raises(InputError, match='does not hold the weights of this network'):
        condense_checkpoint(
            tiny_configs['detector'], checkpoints['classifier'], tmp_path / 'x'
        )
    assert not (tmp_path / 'x').exists()


def test_rejects_layers_missing_in_the_config(tiny_configs, tmp_path, monkeypatch):
    """The condensed config would build them sparse again."""
    monkeypatch.setattr(module, 'condensed_config', copy.deepcopy)
    checkpoint = save_checkpoint(tiny_configs['classifier'], tmp_path / 'c.pth')
    with pytest.raises(InputError, match='must come from a conv_cfg'):
        condense_checkpoint(tiny_configs['classifier'], checkpoint, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_class_types(tiny_configs):
    cfg = Config.fromfile(tiny_configs['classifier'])
    cfg.model.backbone.type = CondenseNetV2
    cfg.model.head.conv_cfg = dict(type=SFR, sparse_factor=2)
    cfg.custom_hooks = [dict(type=SparsificationHook)]
    condensed = condensed_config(cfg)
    assert condensed.model.backbone.deploy
    assert condensed.model.head.conv_cfg.type is CondensedSFR
    assert condensed.custom_hooks == []


@pytest.mark.parametrize('version', sorted({'2.1.2', torch.__version__}))
def test_training_checkpoints_load_on_old_and_new_torch(tmp_path, version, monkeypatch):
    buffer = HistoryBuffer()
    buffer.update(np.float64(2))
    hub = dict(log_scalars=dict(loss=buffer))
    content = dict(message_hub=hub, state_dict=dict(w=torch.ones(2)), meta=dict(iter=1))
    path = tmp_path / 'epoch_1.pth'
    torch.save(content, path)
    monkeypatch.setattr(torch, '__version__', version)
    assert torch.equal(load_checkpoint(path)['state_dict']['w'], torch.ones(2))
    torch.save(dict(content, extra=Dangerous()), path)
    with pytest.raises(UntrustedError, match='trust=True'):
        load_checkpoint(path)


def test_rejects_damaged_and_missing_checkpoints(checkpoints, tmp_path):
    whole = Path(checkpoints['classifier']).read_bytes()
    damaged = tmp_path / 'damaged.pth'
    for content in (whole[: len(whole) // 2], b'', b'not a checkpoint'):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match='is damaged or not a checkpoint'):
            load_checkpoint(damaged)
    with pytest.raises(InputError, match='There is no checkpoint'):
        load_checkpoint(tmp_path / 'missing.pth')
    torch.save([1], damaged)
    with pytest.raises(InputError, match='holds no state dict'):
        load_checkpoint(damaged)


class Dangerous:
    def __reduce__(self):
        return print, ('this code ran',)


def test_code_in_a_checkpoint_runs_only_if_trusted(tmp_path, capsys):
    path = tmp_path / 'dangerous.pth'
    torch.save(dict(state_dict={}, extra=Dangerous()), path)
    with pytest.raises(UntrustedError, match='trust=True'):
        load_checkpoint(path)
    assert capsys.readouterr().out == ''
    assert load_checkpoint(path, trust=True)['state_dict'] == {}
    assert capsys.readouterr().out == 'this code ran\n'


def test_build_model_uses_the_data_preprocessor(tiny_configs):
    model = build_model(Config.fromfile(tiny_configs['classifier']))
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53]
    )
