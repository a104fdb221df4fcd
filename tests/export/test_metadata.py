"""What an exported file says of itself, and steps to and from a test pipeline."""

import hashlib

import numpy as np
import pytest
from mmengine.config import Config

pytest.importorskip('onnx')

import onnx  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from mmcdnv2.errors import InputError  # noqa: E402
from mmcdnv2.export.metadata import (  # noqa: E402
    Input,
    Metadata,
    read_metadata,
    write_model,
)
from mmcdnv2.export.pipeline import (  # noqa: E402
    channel_order_of,
    fixed_size,
    steps_of,
    transforms_of,
)

METADATA = Metadata(
    task='detection',
    raw=False,
    operators='standard',
    config='some.py',
    weights_sha256='ab' * 32,
    classes=('Katze', 'chien', '猫'),
    input=Input('uint8', 'NCHW', 'BGR', (64, 96), ('batch',)),
    preprocess=[dict(op='pad', size=[64, 96], value=[114, 114, 114])],
    mask_threshold=0.75,
)


@pytest.fixture
def path(tmp_path):
    weights = onnx.numpy_helper.from_array(np.arange(3000, dtype=np.float32), 'w')
    graph = helper.make_graph(
        [helper.make_node('Add', ['x', 'w'], ['y'])],
        'graph',
        [helper.make_tensor_value_info('x', TensorProto.FLOAT, [3000])],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, [3000])],
        [weights],
    )
    path = tmp_path / 'model.onnx'
    write_model(helper.make_model(graph, ir_version=8), METADATA, path)
    return path


@pytest.fixture
def rewritten():
    """Give a file other metadata, or one less, and the checksum that fits."""

    def rewrite(path, key, text):
        model = onnx.load(str(path))
        kept = [each for each in model.metadata_props if each.key != f'mmcdnv2.{key}']
        texts = {each.key: each.value for each in kept}
        digits = texts.pop('mmcdnv2.checksum')
        if text is not None:
            texts[f'mmcdnv2.{key}'] = text
        del model.metadata_props[:]
        blank = '0' * len(digits)
        for name, value in {**texts, 'mmcdnv2.checksum': blank}.items():
            model.metadata_props.add(key=name, value=value)
        content = bytearray(model.SerializeToString(deterministic=True))
        content[-len(digits) :] = hashlib.sha256(content).hexdigest().encode()
        path.write_bytes(content)

    return rewrite


def test_reads_what_it_wrote(path):
    assert read_metadata(path) == METADATA
    onnx.checker.check_model(str(path))


def test_reads_files_from_before_masks_had_a_threshold(path, rewritten):
    rewritten(path, 'mask_threshold', None)
    assert read_metadata(path).mask_threshold == 0.5


@pytest.mark.parametrize('place', [0.3, 0.6, 0.9])
def test_notices_any_change(path, place):
    content = bytearray(path.read_bytes())
    # In the weights, which make up nearly all of the file.
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match='changed since it was exported'):
        read_metadata(path)


def test_notices_other_weights_written_by_onnx(path):
    model = onnx.load(str(path))
    model.graph.initializer[0].raw_data = bytes(12000)
    onnx.save(model, str(path))
    message = (
        'changed since .* if on purpose, such as by a quantiser, pass verify=False'
    )
    with pytest.raises(InputError, match=message):
        read_metadata(path)
    assert read_metadata(path, verify=False) == METADATA
    # Tools reorder metadata, and drop or add some.
    entries = sorted(model.metadata_props, key=lambda entry: entry.key, reverse=True)
    del model.metadata_props[:]
    for entry in entries:
        if entry.key != 'mmcdnv2.checksum':
            model.metadata_props.add(key=entry.key, value=entry.value)
    model.metadata_props.add(key='onnx.infer', value='onnxruntime.quant')
    onnx.save(model, str(path))
    with pytest.raises(InputError, match='changed since'):
        read_metadata(path)
    assert read_metadata(path, verify=False) == METADATA


def test_refuses_files_of_others(path, tmp_path):
    with pytest.raises(InputError, match='cannot be read'):
        read_metadata(tmp_path / 'missing.onnx')
    (tmp_path / 'text.onnx').write_text('no model')
    with pytest.raises(InputError, match='not an ONNX file|no metadata'):
        read_metadata(tmp_path / 'text.onnx')
    model = onnx.load(str(path))
    del model.metadata_props[:]
    onnx.save(model, str(path))
    for verify in (True, False):
        with pytest.raises(InputError, match='no metadata of mmcdnv2'):
            read_metadata(path, verify)


@pytest.mark.parametrize(
    ('key', 'text'),
    [
        ('task', None),
        ('format', None),
        ('format', 'x'),
        ('format', '0'),
        ('format', '1.5'),
        ('format', '"1"'),
        ('raw', '"false"'),
        ('classes', '5'),
        ('classes', '"abc"'),
        ('classes', '[1]'),
        ('mask_threshold', '"0.5"'),
        ('input', '{}'),
        ('input', '[]'),
        ('preprocess', '{}'),
        ('preprocess', '[5]'),
        ('preprocess', '[{"op": "flip"}]'),
        ('preprocess', '[{"op": "pad", "size": [4, 4]}]'),
        ('preprocess', '[{"op": "resize", "mode": "fit", "long": 4}]'),
    ],
)
def test_refuses_metadata_that_it_does_not_understand(path, key, text, rewritten):
    rewritten(path, key, text)
    with pytest.raises(InputError, match='metadata that are not understood: export'):
        read_metadata(path)


def test_refuses_later_formats(path, rewritten):
    rewritten(path, 'format', '2')
    with pytest.raises(InputError, match='of format 2, .* reads 1: install a later'):
        read_metadata(path)
    rewritten(path, 'format', '1')
    assert read_metadata(path) == METADATA


def config_with(*pipeline):
    loader = dict(dataset=dict(type='CocoDataset', pipeline=list(pipeline)))
    return Config(dict(test_dataloader=loader))


READ, PACK = dict(type='LoadImageFromFile'), dict(type='PackDetInputs')


def test_reads_detection_pipelines():
    cfg = config_with(
        READ,
        dict(type='Resize', scale=(1333, 800), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True),
        PACK,
    )
    steps = steps_of(cfg)
    sampling = dict(interpolation='bilinear', antialias=False)
    assert steps == [dict(op='resize', mode='fit', long=1333, short=800, **sampling)]
    assert fixed_size(steps) is None
    cfg = config_with(
        READ,
        dict(type='mmdet.Resize', scale=(640, 320), keep_ratio=True),
        dict(type='Pad', size=(640, 320), pad_val=dict(img=(1, 2, 3))),
        PACK,
    )
    steps = steps_of(cfg)
    assert steps[1] == dict(op='pad', size=(320, 640), value=[1, 2, 3])
    assert fixed_size(steps) == (320, 640)


def test_reads_classification_pipelines():
    cfg = config_with(
        READ,
        dict(type='ResizeEdge', scale=256, edge='short', backend='pillow'),
        dict(type='CenterCrop', crop_size=224),
        dict(type='PackInputs'),
    )
    steps = steps_of(cfg)
    assert steps[0] == dict(
        op='resize',
        mode='short_side',
        size=256,
        interpolation='bilinear',
        antialias=True,
    )
    assert fixed_size(steps) == (224, 224)
    assert fixed_size(steps[:1]) is None
    # Width before height, as mmcv's transform has it.
    steps = steps_of(config_with(READ, dict(type='CenterCrop', crop_size=(64, 48))))
    assert steps == [dict(op='crop', size=(48, 64))]
    assert transforms_of(steps, False)[1]['crop_size'] == (64, 48)
    with pytest.raises(InputError, match='CenterCrop, which'):
        crop = dict(type='CenterCrop', crop_size=4, auto_pad=True)
        steps_of(config_with(READ, crop))


def test_channel_order_is_that_of_the_data():
    assert channel_order_of(config_with(READ, PACK)) == 'BGR'
    assert channel_order_of(config_with(dict(type='PackInputs'))) == 'RGB'
    with pytest.raises(InputError, match='as grayscale'):
        steps_of(config_with(dict(READ, color_type='grayscale')))


SCALE = dict(type='Resize', scale=(640, 640), keep_ratio=True)
ANNOTATIONS = dict(type='LoadAnnotations', with_bbox=True)


def part(*pipeline, **options):
    return dict(type='CocoDataset', pipeline=list(pipeline), **options)


@pytest.mark.parametrize(
    'dataset',
    [
        dict(type='RepeatDataset', times=2, dataset=part(READ, SCALE, PACK)),
        dict(type='ConcatDataset', datasets=[part(READ, SCALE, PACK)]),
        # What a file is fetched by, annotations and packed keys change no pixel.
        dict(
            type='ConcatDataset',
            datasets=[
                part(dict(READ, backend_args=None), SCALE, ANNOTATIONS, PACK),
                dict(
                    type='mmengine.ClassBalancedDataset',
                    dataset=part(READ, SCALE, dict(PACK, meta_keys=('img_id',))),
                ),
            ],
        ),
        dict(
            type='MultiImageMixDataset',
            pipeline=[SCALE, PACK],
            dataset=dict(type='KFoldDataset', dataset=part(READ, ANNOTATIONS)),
        ),
        dict(type='OwnWrapper', dataset=[part(READ, SCALE, PACK)]),
    ],
)
def test_the_pipeline_is_found_behind_wrappers(dataset):
    cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
    (step,) = steps_of(cfg)
    assert (step['op'], step['mode'], step['long']) == ('resize', 'fit', 640)
    assert channel_order_of(cfg) == 'BGR'


@pytest.mark.parametrize(
    'dataset',
    [
        None,
        dict(type='CocoDataset'),
        dict(type='RepeatDataset', dataset=part()),
        dict(type='ConcatDataset', datasets=[part(READ, PACK), part()]),
    ],
)
def test_no_pipeline_is_an_error(dataset):
    cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
    for find in (steps_of, channel_order_of):
        with pytest.raises(InputError, match='has no test pipeline'):
            find(cfg)
    with pytest.raises(InputError, match='has no test pipeline'):
        steps_of(Config(dict()))


def test_parts_with_different_pipelines_are_an_error():
    datasets = [part(READ, SCALE, PACK), part(READ, dict(SCALE, scale=(9, 9)), PACK)]
    cfg = Config(
        dict(
            test_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=datasets))
        )
    )
    with pytest.raises(InputError, match='data sets with different pipelines'):
        steps_of(cfg)


@pytest.mark.parametrize('is_detector', [True, False])
def test_steps_lead_back_to_the_transforms(is_detector):
    steps = [
        dict(
            op='resize',
            mode='stretch',
            size=(20, 30),
            interpolation='bilinear',
            antialias=False,
        ),
        dict(op='pad', size=(40, 50), value=[7, 8, 9]),
    ]
    transforms = transforms_of(steps, is_detector)
    if is_detector:
        assert steps_of(config_with(*transforms)) == steps
    assert transforms[1]['scale'] == (30, 20)
    assert transforms[-1]['type'] == ('PackDetInputs' if is_detector else 'PackInputs')


def test_names_a_transform_that_has_no_step():
    with pytest.raises(InputError, match='Expand.*Resize, ResizeEdge'):
        steps_of(config_with(READ, dict(type='Expand'), PACK))
    with pytest.raises(InputError, match='lanczos'):
        steps_of(
            config_with(
                READ, dict(type='Resize', scale=(2, 2), interpolation='lanczos')
            )
        )
