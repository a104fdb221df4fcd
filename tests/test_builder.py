"""What a config says about its model's input."""

import pytest
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS

from mmcdnv2.builder import build_model, input_shape_of, make_inputs


@pytest.mark.parametrize(
    ('name', 'shape'),
    [
        ('cdnv2_a_8xb128_in1k.py', (224, 224)),
        ('cifar/cdnv2-110_1xb64_cifar10.py', (32, 32)),
        ('faster_rcnn_cdnv2_a_fpn_1x_coco.py', (800, 1333)),
        ('demo/faster_rcnn_cdnv2_a_fpn_digits.py', (192, 192)),
        ('demo/cdnv2_a_digits.py', (224, 224)),
    ],
)
def test_input_shape(configs, name, shape):
    assert input_shape_of(Config.fromfile(configs / name)) == shape


def test_inputs_are_padded_as_the_preprocessor_pads(configs):
    cfg = Config.fromfile(configs / 'faster_rcnn_cdnv2_a_fpn_1x_coco.py')
    inputs, samples = make_inputs(build_model(cfg), cfg, input_shape=(100, 130))
    assert inputs.shape == (1, 3, 128, 160)
    assert samples[0].img_shape == (100, 130)
    assert (inputs[:, :, 100:] == 0).all() and (inputs[:, :, :100, :130] != 0).all()


@pytest.mark.parametrize(
    ('transforms', 'shape'),
    [
        ([dict(type='Resize', scale_factor=2.0)], (32, 32)),
        ([dict(type='Resize', scale=192)], (192, 192)),
        ([dict(type='Resize', scale=(100, 50))], (50, 100)),
        ([dict(type='CenterCrop', crop_size=(48, 64))], (64, 48)),
        (
            [
                dict(type='Resize', scale=256),
                dict(type='CenterCrop', crop_size=224),
            ],
            (224, 224),
        ),
        (
            [
                dict(type='Resize', scale=(99, 98)),
                dict(type='CenterCrop', crop_size=64),
            ],
            (64, 64),
        ),
        ([dict(type='ResizeEdge', scale=256), dict(type='PackInputs')], (32, 32)),
    ],
)
def test_input_shape_of_a_pipeline(transforms, shape):
    dataset = dict(type='CIFAR10', pipeline=transforms)
    cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
    assert input_shape_of(cfg) == shape


def test_input_shape_without_test_data():
    assert input_shape_of(Config(dict(test_dataloader=None))) == (224, 224)


def test_models_whose_eval_returns_nothing(monkeypatch):
    class Quiet(BaseModel):
        def forward(self, inputs):
            return inputs

        def train(self, mode=True):
            super().train(mode)

    monkeypatch.setitem(MODELS._module_dict, 'Quiet', Quiet)
    model = build_model(Config(dict(model=dict(type='Quiet'))))
    assert isinstance(model, Quiet)
    assert not model.training
