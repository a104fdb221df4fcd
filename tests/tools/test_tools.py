"""The command-line tools, from training to the condensed model's test."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import mmengine.device
import numpy as np
import pytest
import torch
from conftest import ROOT, save_checkpoint
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.runner import Runner
from reference import official_state_dict

from mmcdnv2 import ops


def scalars(work_dir):
    """All that was logged in a work dir, in order."""
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    return [json.loads(line) for f in files for line in f.read_text().splitlines()]


def read_metrics(work_dir):
    """The metrics of a test run, without its times."""
    metrics = json.loads(max(Path(work_dir).glob('*/*.json')).read_text())
    return {key: value for key, value in metrics.items() if 'time' not in key}


@pytest.mark.parametrize('name', ['classifier', 'detector'])
def test_train_resume_test_condense_test(run, tiny_configs, tmp_path, name):
    config, work_dir = tiny_configs[name], tmp_path / 'work'
    options = ('--cfg-options', 'default_hooks.logger.interval=1')
    # Stopped after one of two epochs, half of the schedule is done.
    stop = ('train_dataloader.dataset.indices=4', 'train_cfg.max_epochs=1')
    assert run('train.py', config, '--work-dir', work_dir, *options, *stop) == 0
    assert (work_dir / 'epoch_1.pth').exists()
    assert run('train.py', config, '--work-dir', work_dir, '--resume', *options) == 0
    logged = [line for line in scalars(work_dir) if 'kept_fraction' in line]
    assert logged[0]['kept_fraction'] == 1
    assert logged[-1]['kept_fraction'] == 0.25
    assert logged[-1]['epoch'] == 2

    checkpoint = work_dir / 'epoch_2.pth'
    out_dir = tmp_path / 'condensed'
    report = tmp_path / 'report.json'
    shape = ('--input-shape', 64, 64)
    arguments = (config, checkpoint, out_dir, *shape, '--json', report)
    assert run('condense.py', *arguments) == 0
    report = json.loads(report.read_text())
    assert set(report['runs_on'].values()) == {ops.describe()}
    predictions = []
    for i, files in enumerate(
        [(config, checkpoint), (report['config'], report['checkpoint'])]
    ):
        folder, out = tmp_path / f'test{i}', tmp_path / f'{i}.pkl'
        assert run('test.py', *files, '--work-dir', folder, '--out', out) == 0
        predictions.append(pickle.loads(out.read_bytes()))
    sparse, condensed = (read_metrics(tmp_path / f'test{i}') for i in range(2))
    assert condensed == pytest.approx(sparse, abs=1e-3)
    for sparse, condensed in zip(*predictions):
        key = dict(classifier='pred_score', detector='pred_instances')[name]
        sparse, condensed = sparse[key], condensed[key]
        if name == 'detector':
            sparse, condensed = sparse['scores'], condensed['scores']
        torch.testing.assert_close(condensed, sparse, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ('hook', 'tests_average'),
    [
        (dict(type='EMAHook'), True),
        (dict(type='EMAHook', evaluate_on_ema=False), False),
        (dict(type='mmengine.EMAHook'), True),
    ],
    ids=['average', 'original', 'mmengine'],
)
@pytest.mark.parametrize('bare', [False, True], ids=['checkpoint', 'weights'])
def test_hooks_choose_among_the_weights(
    run, tiny_configs, checkpoints, tmp_path, hook, tests_average, bare
):
    """As in a training's checkpoint: the average first, the original beside it."""
    average = torch.load(checkpoints['classifier'], weights_only=True)['state_dict']
    bias = next(reversed(average))
    assert average[bias].shape == (10,)
    average[bias] = 1e3 * torch.eye(10)[3]
    original = {**average, bias: 1e3 * torch.eye(10)[7]}
    content = dict(
        state_dict=average,
        ema_state_dict={f'module.{name}': value for name, value in original.items()},
    )
    checkpoint, out = tmp_path / 'averaged.pth', tmp_path / 'out.pkl'
    torch.save(average if bare else content, checkpoint)

    cfg = Config.fromfile(tiny_configs['classifier'])
    cfg.custom_hooks = [hook]
    config = tmp_path / 'config.py'
    cfg.dump(config)
    arguments = (config, checkpoint, '--work-dir', tmp_path / 'work', '--out', out)
    assert run('test.py', *arguments) == 0
    labels = {int(sample['pred_label']) for sample in pickle.loads(out.read_bytes())}
    assert labels == {3 if bare or tests_average else 7}


def test_condense_says_what_cannot_be_measured(run, tiny_configs, tmp_path, capsys):
    cfg = Config.fromfile(tiny_configs['detector'])
    # As a semi-supervised detector has it: two models, and none has the backbone.
    cfg.model = dict(
        type='SemiBaseDetector',
        detector=cfg.model,
        data_preprocessor=cfg.model.pop('data_preprocessor'),
        semi_train_cfg=dict(),
        semi_test_cfg=dict(),
    )
    config, report = tmp_path / 'semi.py', tmp_path / 'report.json'
    cfg.dump(config)
    checkpoint = save_checkpoint(config, tmp_path / 'semi.pth')
    out_dir = tmp_path / 'condensed'
    options = ('--input-shape', 32, 32, '--json', report)
    assert run('condense.py', config, checkpoint, out_dir, *options) == 0
    assert len(list(out_dir.iterdir())) == 2
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split('│')[1].strip() for line in lines if line.startswith('│')]
    assert rows == ['Parameters (M)', 'MACs (M)', 'Checkpoint (MB)', 'Latency (ms)']
    reason = "AttributeError: 'SemiBaseDetector' object has no attribute 'backbone'"
    for title in ('Backbone MACs (M)', 'Backbone latency (ms)'):
        assert f'{title}: not measured, {reason}' in lines
    report = json.loads(report.read_text())
    assert report['backbone_macs'] is None
    assert report['unmeasured']['backbone_macs'] == reason


@pytest.mark.parametrize('name', ['classifier', 'detector'])
def test_show_dir(tiny_configs, checkpoints, tmp_path, name):
    # MMEngine keeps one visualizer per process, hence a process for each scope.
    files = (tiny_configs[name], checkpoints[name])
    folders = ('--work-dir', tmp_path / 'work', '--show-dir', tmp_path / 'shown')
    command = (sys.executable, ROOT / 'tools' / 'test.py', *files, *folders)
    subprocess.run(command, check=True)
    pictures = {path.suffix for path in tmp_path.rglob('*shown*/**/*') if path.suffix}
    assert pictures <= {'.png', '.jpg'}
    assert pictures


def test_official_checkpoint(run, tmp_path, capsys):
    source, target = tmp_path / 'model_best.pth.tar', tmp_path / 'out' / 'a.pth'
    torch.save(dict(state_dict=official_state_dict('a'), epoch=1), source)
    assert run('model_converters/official_to_mmcdnv2.py', source, target) == 0
    assert 'configs/cdnv2_a_8xb128_in1k.py' in capsys.readouterr().out
    weights = torch.load(target, weights_only=True)['state_dict']
    assert torch.equal(
        weights['backbone.stem.conv.weight'],
        official_state_dict('a')['features.init_conv.weight'],
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ('script', 'arguments', 'sizes', 'names'),
    [
        (
            'condense.py',
            ['{config}', '{checkpoint}', '{out}', '--json', '{out}/c.json'],
            {2500: 'classifier_condensed.py', 20000: 'classifier_condensed.pth'},
            ['c.json', 'classifier_condensed.pth', 'classifier_condensed.py'],
        ),
        (
            'model_converters/official_to_mmcdnv2.py',
            ['{official}', '{out}/a.pth'],
            {100000: 'a.pth'},
            ['a.pth'],
        ),
        (
            'analysis_tools/connection_map.py',
            ['{config}', '{checkpoint}', '--out', '{out}/a.png'],
            {20000: 'a.png'},
            ['a.png'],
        ),
    ],
)
def test_a_full_disk(
    run,
    tiny_configs,
    checkpoints,
    tmp_path,
    script,
    arguments,
    sizes,
    names,
    small_files,
):
    official, out = tmp_path / 'official.pth', tmp_path / 'out'
    if 'official' in script:
        torch.save(dict(state_dict=official_state_dict('a')), official)
    out.mkdir()
    for name in names:
        (out / name).write_text('old')
    before = contents(out)
    paths = dict(
        config=tiny_configs['classifier'],
        checkpoint=checkpoints['classifier'],
        official=official,
        out=out,
    )
    arguments = [argument.format_map(paths) for argument in arguments]
    for size, name in sizes.items():
        with small_files(size):
            status = run(script, *arguments)
        assert status == (
            f'error: {out}/{name} cannot be written (File too large): make room there, '
            'or choose another folder.'
        )
        assert contents(out) == before
    assert run(script, *arguments) == 0
    after = contents(out)
    assert sorted(after) == names
    assert b'old' not in after.values()


def test_condense_looks_whether_it_can_write(run, tiny_configs, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('old')
    arguments = [tiny_configs['classifier'], 'not-read.pth']
    for options in ([tmp_path / 'file'], [tmp_path, '--json', tmp_path / 'file/x']):
        status = run('condense.py', *arguments, *options)
        assert status.startswith(f'error: {tmp_path}/file cannot be a folder: ')
    assert contents(tmp_path) == {'file': b'old'}


@pytest.mark.parametrize(
    ('script', 'arguments', 'sentence'),
    [
        ('train.py', ['missing.py'], 'There is no config file missing.py'),
        (
            'train.py',
            ['configs/faster_rcnn_cdnv2_c_fpn_1x_coco.py'],
            'train_dataloader expects its data in data/coco/',
        ),
        (
            'train.py',
            ['configs/cdnv2_a_8xb128_in1k.py'],
            'train_dataloader expects its data in data/imagenet',
        ),
        (
            'test.py',
            ['{detector}', '{classifier_checkpoint}'],
            'does not hold the weights of this network',
        ),
        ('test.py', ['{detector}', '{damaged}'], 'is damaged or not a checkpoint'),
        (
            'train.py',
            ['configs/demo/cdnv2_a_digits.py', '--auto-scale-lr'],
            'set auto_scale_lr.base_batch_size',
        ),
        ('test.py', ['{detector}', 'none.pth'], 'There is no checkpoint none.pth'),
        (
            'test.py',
            ['{detector}', '{detector_checkpoint}', '--out', 'a.txt'],
            '--out expects a .pkl',
        ),
        (
            'train.py',
            ['{detector}', '--cfg-options', 'model.backbone.arch=z'],
            "Unknown arch 'z'",
        ),
        (
            'train.py',
            ['{detector}', '--cfg-options', 'load_from=none.pth'],
            'There is no checkpoint none.pth',
        ),
        (
            'condense.py',
            ['{detector}', '{damaged}', '{out}'],
            'is damaged or not a checkpoint',
        ),
        (
            'condense.py',
            ['{detector}', '{detector_checkpoint}', '{out}', '--image', '{damaged}'],
            'is not an image',
        ),
        (
            'condense.py',
            ['{detector}', '{detector_checkpoint}', '{out}', '--image', 'none.png'],
            'is not an image',
        ),
        (
            'condense.py',
            ['{detector}', '{detector_checkpoint}', '{damaged}'],
            'cannot be a folder',
        ),
        (
            'train.py',
            ['{detector}', '--cfg-options', 'load_from={damaged}'],
            'is damaged or not a checkpoint',
        ),
        (
            'train.py',
            ['{detector}', '--resume', '{detector_checkpoint}'],
            'no training can be resumed from it',
        ),
        (
            'model_converters/official_to_mmcdnv2.py',
            ['{classifier_checkpoint}', '{out}'],
            'This is not a checkpoint of CondenseNetV2-A, -B or -C',
        ),
        (
            'dataset_converters/coco2014_to_trainval35k.py',
            ['{out}', 'minival.txt'],
            'There is no annotation file',
        ),
        ('analysis_tools/digits.py', ['{digits}'], 'exists already'),
        ('analysis_tools/complexity.py', ['none.py'], 'There is no config file'),
        (
            'analysis_tools/complexity.py',
            ['configs/_base_/recipes/in1k_original.py'],
            'in1k_original.py has no model',
        ),
        (
            'analysis_tools/connection_map.py',
            ['README.md', 'none.pth', '--out', '{out}/a.png'],
            'README.md cannot be read as a config',
        ),
    ],
)
def test_bad_input_gets_one_sentence(
    run, tiny_configs, checkpoints, digits, tmp_path, script, arguments, sentence
):
    damaged = tmp_path / 'damaged.pth'
    damaged.write_bytes(Path(checkpoints['detector']).read_bytes()[:5000])
    places = dict(
        detector=tiny_configs['detector'],
        detector_checkpoint=checkpoints['detector'],
        classifier_checkpoint=checkpoints['classifier'],
        damaged=damaged,
        digits=digits,
        out=tmp_path / 'out',
    )
    work_dir = (
        ['--work-dir', tmp_path / 'work'] if script in ('train.py', 'test.py') else []
    )
    arguments = [str(argument).format(**places) for argument in arguments]
    options = []
    if '--cfg-options' in arguments:
        at = arguments.index('--cfg-options')
        arguments, options = arguments[:at], arguments[at:]
    error = run(script, *arguments, *work_dir, *options)
    assert isinstance(error, str)
    assert error.startswith('error: ')
    assert sentence in error
    if 'expects its data' in sentence or 'resumed' in sentence:
        assert '--cfg-options' in error
    assert not (tmp_path / 'out').exists()


@DATASETS.register_module()
class ArrayCoco(CocoDataset):
    """A data set whose metainfo holds NumPy arrays, which checkpoints keep."""

    METAINFO = dict(
        classes=np.array([*'0123456789']), palette=np.full((10, 3), 7, np.uint8)
    )


def test_numpy_arrays_in_the_metainfo(run, retina_config, digits, tmp_path):
    config = tmp_path / 'config.py'
    dataset = "dataset=dict(type='mmdet.ArrayCoco', metainfo=dict(_delete_=True))"
    config.write_text(
        f"""_base_ = {retina_config!r}
model = dict(test_cfg=dict(score_thr=0))
train_dataloader = dict(batch_size=2, {dataset})
train_dataloader['dataset']['data_root'] = {str(digits)!r}
val_dataloader = test_dataloader = dict({dataset})
val_dataloader['dataset']['data_root'] = {str(digits)!r}
train_cfg = dict(max_epochs=2, val_interval=2)
val_evaluator = test_evaluator = dict(ann_file={str(digits / 'annotations/val.json')!r})
custom_hooks = [dict(type='SparsificationHook')]
"""
    )
    work = ('--work-dir', tmp_path / 'work')
    options = ('--cfg-options', 'train_cfg.max_epochs=1')
    assert run('train.py', config, *work, *options) == 0
    first = (tmp_path / 'work' / 'epoch_1.pth').read_bytes()
    assert run('train.py', config, *work, '--resume') == 0
    assert (tmp_path / 'work' / 'epoch_1.pth').read_bytes() == first
    checkpoint = tmp_path / 'work' / 'epoch_2.pth'
    image = next((digits / 'val').iterdir())
    options = ('--out', tmp_path / 'out', '--score-threshold', 0)
    assert run('predict.py', image, config, checkpoint, *options) == 0


TTA = """
tta_model = dict(type={kind!r}, **{options})
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(48, 48), keep_ratio={keep})],
        [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
        {pack},
    ]),
]
"""
PACK = """[dict(type='LoadAnnotations', with_bbox=True)], [dict(
    type='PackDetInputs',
    meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor',
               'flip', 'flip_direction'),
)]"""


@pytest.mark.parametrize('name', ['classifier', 'detector'])
def test_test_time_augmentation_and_data_parallel(
    run, tiny_configs, checkpoints, retina_config, tmp_path, name
):
    config = tmp_path / 'config.py'
    if name == 'detector':
        base, checkpoint = retina_config, save_checkpoint(retina_config, tmp_path / 'a')
        options = (
            "dict(tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=9))"
        )
        parts = dict(kind='DetTTAModel', options=options, keep=True, pack=PACK)
    else:
        base, checkpoint = tiny_configs[name], checkpoints[name]
        pack = "[dict(type='PackInputs')]"
        parts = dict(kind='AverageClsScoreTTA', options='{}', keep=False, pack=pack)
    config.write_text(f'_base_ = {base!r}\n' + TTA.format(**parts))
    content = torch.load(checkpoint)
    weights = {f'module.{k}': value for k, value in content['state_dict'].items()}
    path = tmp_path / 'wrapped.pth'
    torch.save(dict(content, state_dict=weights), path)
    arguments = ('test.py', config, path, '--work-dir', tmp_path / 'work')
    assert run(*arguments) == 0
    plain = read_metrics(tmp_path / 'work')
    assert run(*arguments, '--tta') == 0
    assert read_metrics(tmp_path / 'work').keys() == plain.keys()
    # As MMDetection and MMPreTrain put the model into the other.
    wrapped = Config.fromfile(config)
    wrapped.model = dict(wrapped.tta_model, module=wrapped.model)
    wrapped.test_dataloader.dataset.pipeline = wrapped.tta_pipeline
    wrapped.dump(config)
    assert run(*arguments) == 0
    out = ('--input-shape', 64, 64)
    assert run('condense.py', config, path, tmp_path / 'condensed', *out) == 0


class Opaque:
    """What only a trusted checkpoint may hold."""


@pytest.mark.parametrize(
    ('script', 'arguments'),
    [
        ('test.py', ['{config}', '{checkpoint}', '--work-dir', '{out}']),
        ('condense.py', ['{config}', '{checkpoint}', '{out}']),
        (
            'analysis_tools/connection_map.py',
            ['{config}', '{checkpoint}', '--out', '{out}/a.png'],
        ),
        ('model_converters/official_to_mmcdnv2.py', ['{checkpoint}', '{out}']),
        (
            'train.py',
            [
                *('{config}', '--work-dir', '{out}'),
                *('--cfg-options', 'load_from={checkpoint}'),
            ],
        ),
    ],
)
def test_untrusted_checkpoints(run, tiny_configs, tmp_path, script, arguments):
    checkpoint, out = tmp_path / 'opaque.pth', tmp_path / 'out'
    torch.save(dict(state_dict={}, extra=Opaque()), checkpoint)
    places = dict(config=tiny_configs['classifier'], checkpoint=checkpoint, out=out)
    arguments = [argument.format(**places) for argument in arguments]
    assert '--trust-checkpoint' in run(script, *arguments)
    assert not out.exists()
    if script == 'train.py':
        return
    # The next complaint is about what is in it.
    error = run(script, *arguments, '--trust-checkpoint')
    assert error.startswith('error: ')
    assert 'trust=True' not in error and '--trust-checkpoint' not in error


@pytest.fixture
def train(run, tiny_configs, tmp_path, monkeypatch):
    """Run tools/train.py up to the training; return the runner or the error."""
    runners = []
    monkeypatch.setattr(Runner, 'train', lambda runner: runners.append(runner))

    def train_tool(*arguments):
        folder = ('--work-dir', tmp_path / 'work')
        error = run('train.py', tiny_configs['detector'], *folder, *arguments)
        return error or runners.pop()

    return train_tool


def test_amp_needs_an_accelerator(train, monkeypatch):
    monkeypatch.setattr(mmengine.device, 'get_device', lambda: 'cpu')
    assert '--amp needs a GPU' in train('--amp')
    monkeypatch.setattr(mmengine.device, 'get_device', lambda: 'cuda')
    wrapper = train('--amp').cfg.optim_wrapper
    assert (wrapper.type, wrapper.loss_scale) == ('AmpOptimWrapper', 'dynamic')


def test_scales_the_learning_rate_to_the_batch_size(train):
    options = ('--cfg-options', 'auto_scale_lr.base_batch_size=1')
    runner = train('--auto-scale-lr', *options)
    optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    base = optim_wrapper.param_groups[0]['lr']
    runner.scale_lr(optim_wrapper, runner.auto_scale_lr)
    assert optim_wrapper.param_groups[0]['lr'] == 2 * base


def test_complexity(run, capsys, monkeypatch):
    monkeypatch.delenv('COLUMNS', raising=False)
    monkeypatch.delenv('FORCE_COLOR', raising=False)
    config = 'configs/cifar/condensenet-50_1xb64_cifar10.py'
    assert run('analysis_tools/complexity.py', config) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if 'condensenet-50' in line)
    cells = [cell.strip() for cell in row.strip('│').split('│')]
    assert cells[1:6] == ['32x32', '0.523', '0.217', '0.22M', '-1.6%']
    assert cells[6:] == ['64.934', '27.186', '28.642', '28.6M', '+0.1%', '1 2']
    assert '1: Published figures: paper of CondenseNet.' in out
    assert '2: Our figure is equal after rounding to the published digits.' in out

    arguments = (config, '--input-shape', 64, 32)
    assert run('analysis_tools/complexity.py', *arguments) == 0
    out = capsys.readouterr().out
    # Twice the pixels; what was published does not hold for them.
    assert '64x32' in out and '54.367' in out and '28.6M' not in out


def test_training_cost(run, tiny_configs, tmp_path, capsys):
    report = tmp_path / 'report.json'
    small = ('--batch', 2, '--input-shape', 64, 64, '--rounds', 1, '--channels-last')
    arguments = (tiny_configs['classifier'], *small, '--json', report)
    assert run('analysis_tools/training_cost.py', *arguments) == 0
    assert 'ours, with_cp' in capsys.readouterr().out
    report = json.loads(report.read_text())
    assert report['setup']['shape'] == [64, 64]
    assert len(report['costs']) == 3


@pytest.mark.parametrize(
    'given, policy', [({}, 'PASSIVE'), ({'OMP_WAIT_POLICY': 'active'}, 'ACTIVE')]
)
def test_how_threads_wait(given, policy):
    env = {k: v for k, v in os.environ.items() if k != 'OMP_WAIT_POLICY'}
    done = subprocess.run(
        [sys.executable, 'tools/train.py', '--help'],
        cwd=ROOT,
        env=dict(env, PYTHONPATH=str(ROOT), OMP_DISPLAY_ENV='true', **given),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # As PyTorch's OpenMP has read it.
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr


@pytest.mark.parametrize('name', ['demo', 'predict', 'test', 'train'])
def test_it_is_chosen_before_pytorch_is_loaded(name):
    source = (ROOT / 'tools' / f'{name}.py').read_text()
    before, found, _ = source.partition(
        "os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')"
    )
    assert found
    assert not re.search(r'^(from|import) (mm|torch)', before, re.MULTILINE)
