"""What several tests build on."""

import runpy
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.visualization import Visualizer

from lab.digits import make_digits
from mmcdnv2.builder import build_model
from mmcdnv2.layers import SFRModule, sparse_layers

# Test files are imported by path; this makes `reference` importable.
sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).parent.parent
# Seconds after which a process is taken to hang, however busy the machine is.
HANG = 300


@pytest.fixture(autouse=True)
def wide_output(monkeypatch):
    """Tables are not wrapped, whatever the tests run in."""
    monkeypatch.setenv('COLUMNS', '200')


@pytest.fixture
def configs():
    return ROOT / 'configs'


TINY_BACKBONE = """dict(
    type='CondenseNetV2',
    arch=dict(
        depths=(1, 1, 2),
        growth_rates=(8, 8, 16),
        groups=4,
        condense_factor=4,
        sparse_factor=4,
        se_from=2,
    ),
    {options}
)"""


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """A tiny copy of the demo's data."""
    root = tmp_path_factory.mktemp('data') / 'digits'
    make_digits(root, num_train=6, num_val=3, num_classification=30)
    return root


@pytest.fixture(scope='session')
def tiny_configs(tmp_path_factory, digits):
    """Configs of a tiny classifier and a tiny detector on the tiny data."""
    folder = tmp_path_factory.mktemp('configs')
    demo = ROOT / 'configs' / 'demo'
    loader = 'dict(batch_size={}, dataset=dict(data_root={!r}))'
    images = str(digits / 'classification')
    classifier = folder / 'classifier.py'
    classifier.write_text(
        f"""_base_ = {str(demo / 'cdnv2_a_digits.py')!r}
model = dict(
    backbone={TINY_BACKBONE.format(options='_delete_=True,')},
    neck=dict(channels=64),
    head=dict(in_channels=64, mid_channels=[16]),
)
train_dataloader = {loader.format(8, images)}
val_dataloader = {loader.format(8, images)}
test_dataloader = {loader.format(8, images)}
train_cfg = dict(max_epochs=2, val_interval=1)
"""
    )
    detector = folder / 'detector.py'
    detector.write_text(
        f"""_base_ = {str(demo / 'faster_rcnn_cdnv2_a_fpn_digits.py')!r}
model = dict(
    backbone={TINY_BACKBONE.format(options='_delete_=True, out_indices=(0, 1, 2)')},
    neck=dict(in_channels=[24, 32, 64]),
)
train_dataloader = {loader.format(2, str(digits))}
val_dataloader = {loader.format(1, str(digits))}
test_dataloader = {loader.format(1, str(digits))}
val_evaluator = dict(ann_file={str(digits / 'annotations' / 'val.json')!r})
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=2)
custom_hooks = [dict(type='SparsificationHook')]
"""
    )
    return dict(classifier=str(classifier), detector=str(detector))


@pytest.fixture(scope='session')
def retina_config(tmp_path_factory, digits):
    """Config of a detector that is exported in seconds, on the tiny data."""
    config = tmp_path_factory.mktemp('configs') / 'retina.py'
    recipe = ROOT / 'configs' / '_base_' / 'recipes' / 'digits_detection.py'
    annotations = str(digits / 'annotations' / 'val.json')
    config.write_text(
        f"""_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', {str(recipe)!r}]
model = dict(
    backbone={TINY_BACKBONE.format(options='_delete_=True, out_indices=(1, 2)')},
    neck=dict(in_channels=[32, 64], start_level=0, out_channels=16, num_outs=2),
    bbox_head=dict(
        num_classes=10,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(strides=[8, 16]),
    ),
    test_cfg=dict(nms_pre=100, max_per_img=20),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(192, 192), keep_ratio=True),
    dict(type='Pad', size=(192, 192), pad_val=dict(img=(114, 114, 114))),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
test_dataloader = dict(
    batch_size=2, dataset=dict(data_root={str(digits)!r}, pipeline=test_pipeline)
)
test_evaluator = dict(ann_file={annotations!r})
"""
    )
    return str(config)


@pytest.fixture(scope='session')
def exported(tmp_path_factory, tiny_configs, checkpoints, retina_config):
    """A tiny classifier and a tiny detector, and the files that they become."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    from mmcdnv2.export import export_checkpoint
    from mmcdnv2.export.tracing import has_dynamo_exporter

    folder = tmp_path_factory.mktemp('exported')
    retina = save_checkpoint(retina_config, folder / 'retina.pth')
    models = {}
    for name, config, checkpoint, size in (
        ('classifier', tiny_configs['classifier'], checkpoints['classifier'], (48, 48)),
        ('detector', retina_config, retina, None),
    ):
        file = str(folder / f'{name}.onnx')
        export_checkpoint(
            config,
            checkpoint,
            file,
            operators='standard',
            input_shape=size,
            dynamic=('batch',) if has_dynamo_exporter() else (),
        )
        models[name] = SimpleNamespace(config=config, checkpoint=checkpoint, file=file)
    return models


def randomise(model):
    """Give norms and reactivations weights that are not the identity."""
    for module in model.modules():
        if isinstance(module, SFRModule):
            torch.nn.init.kaiming_normal_(module.conv.weight)
            torch.nn.init.uniform_(module.norm.weight, 0.5, 1.5)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)


def save_checkpoint(config, path, progress=1.0):
    """Save random weights, those of norms and reactivations too."""
    torch.manual_seed(0)
    model = build_model(Config.fromfile(config))
    randomise(model)
    for layer in sparse_layers(model).values():
        layer.set_progress(progress)
    meta = dict(dataset_meta=dict(classes=tuple('0123456789')))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    return str(path)


@pytest.fixture(scope='session')
def checkpoints(tmp_path_factory, tiny_configs):
    """Finished, sparse checkpoints of the tiny networks."""
    folder = tmp_path_factory.mktemp('checkpoints')
    return {
        name: save_checkpoint(config, folder / f'{name}.pth')
        for name, config in tiny_configs.items()
    }


@pytest.fixture
def small_files():
    """Let no file become larger than a number of bytes, as if the disk were full."""
    resource = pytest.importorskip('resource')
    kind = resource.RLIMIT_FSIZE
    soft, hard = resource.getrlimit(kind)

    @contextmanager
    def limit(size):
        resource.setrlimit(kind, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(kind, (soft, hard))

    return limit


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a tool in this process; return its exit status and error."""

    def run_tool(script, *arguments):
        argv = [script, *map(str, arguments)]
        monkeypatch.setattr(sys, 'argv', argv)
        monkeypatch.chdir(ROOT)
        monkeypatch.syspath_prepend((ROOT / 'tools' / script).parent)
        # MMEngine hands a new runner the visualizer of an earlier one.
        for visualizer in (Visualizer, *Visualizer.__subclasses__()):
            visualizer._instance_dict.clear()
        try:
            runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
        except SystemExit as error:
            return error.code
        return 0

    return run_tool
