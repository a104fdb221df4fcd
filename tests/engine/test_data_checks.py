"""Bad data is rejected or warned of before a training run; usual data is not."""

import copy
import io
import json
import logging
import math
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.models.dense_heads import RetinaHead, RPNHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mmcdnv2.datasets import image_files
from mmcdnv2.engine import build_runner, data_checks
from mmcdnv2.engine.data_checks import check_data, check_heads, is_first_of_machine
from mmcdnv2.errors import DataError, InputError

CLASSES = ('cat', 'dog', 'cow')
NAN, INFINITE = math.nan, math.inf
LOAD = dict(type='LoadImageFromFile')
ADVICE = ': correct the file or use another one.'


def coco():
    """Three images of 64x48, the last of which has no annotation, and five boxes."""
    boxes = [
        [0, 0, 64, 48],
        [8.5, 4, 20, 30],
        [2, 2, 10, 10],
        [1, 1, 5, 6],
        [0, 0, 1, 1],
    ]
    return dict(
        images=[
            dict(id=7 + i, file_name=f'{i}.{suffix}', width=64, height=48)
            for i, suffix in enumerate(('jpg', 'png', 'jpg'))
        ],
        annotations=[
            dict(
                id=i + 1,
                image_id=7 + i % 2,
                category_id=1 + i % 3,
                bbox=box,
                area=box[2] * box[3],
                iscrowd=0,
            )
            for i, box in enumerate(boxes)
        ],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
    )


def encoded(suffix, quality=90):
    pixels = np.random.RandomState(0).randint(0, 256, (48, 64, 3), np.uint8)
    return cv2.imencode(suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()


@pytest.fixture
def root(tmp_path):
    """Three images and their annotations."""
    (tmp_path / 'images').mkdir()
    for image in coco()['images']:
        name = image['file_name']
        (tmp_path / 'images' / name).write_bytes(encoded(name[-4:]))
    (tmp_path / 'a.json').write_text(json.dumps(coco()))
    return tmp_path


def config(root, loader='train_dataloader', wrap=lambda part: part, **settings):
    dataset = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='a.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        pipeline=[LOAD],
    )
    content = {loader: dict(dataset=wrap(dict(dataset, **settings)))}
    return Config(dict(default_scope='mmdet', **content))


@pytest.fixture
def log(monkeypatch):
    """What is logged: pairs of a level and a sentence."""
    logged = []

    def print_log(message, logger, level=logging.INFO):
        assert logger == 'current'
        logged.append((level, message))

    monkeypatch.setattr(data_checks, 'print_log', print_log)
    return logged


def messages(cfg, log, loader='train_dataloader', least=logging.WARNING):
    """Check the data; return what is warned of."""
    log.clear()
    check_data(cfg, loader)
    return [message for level, message in log if level >= least]


def refusal(cfg, loader='train_dataloader'):
    """Return the one sentence that the data is refused with."""
    with pytest.raises(DataError) as error:
        check_data(cfg, loader)
    sentence = str(error.value)
    assert sentence.endswith('.')
    assert '\n' not in sentence
    return sentence


def put(kind, place, key, value):
    def change(content):
        content[kind][place][key] = value

    return change


def drop(kind, place, key):
    def change(content):
        del content[kind][place][key]

    return change


def put_all(**values):
    def change(content):
        content.update(values)

    return change


def add(kind, **entry):
    def change(content):
        content[kind].append(dict(content[kind][0], **entry))

    return change


def on_all(**values):
    """Change all annotations."""
    return lambda content: [each.update(values) for each in content['annotations']]


BOX = 'annotations without a bbox (finite left, top, width and height) and an area'
SIZE = 'images without a width and height above 0, 1 of 3'
TWICE = 'whose id another one has, too, 2 of '
OF = 'annotations whose {} does not exist, 1 of 5'
NOTHING = 'no annotation that train_dataloader could use, out of '
# What is done to the content above, and what it has.
REJECTED = [
    (drop('images', 0, 'id'), 'images without an id, a number or text, 1 of 3, '),
    (put('annotations', 1, 'id', None), 'annotations without an id, a number or'),
    (put('categories', 1, 'id', [1]), 'categories without an id, a number or text'),
    (put('images', 1, 'id', 7), f'images {TWICE}'),
    (put('annotations', 1, 'id', 1), f'annotations {TWICE}'),
    (put('categories', 1, 'id', 1), f'categories {TWICE}'),
    (put('annotations', 2, 'image_id', 99), OF.format('image')),
    (put('annotations', 2, 'image_id', '7'), OF.format('image')),
    (put('annotations', 2, 'image_id', NAN), OF.format('image')),
    (put('annotations', 2, 'image_id', [7]), OF.format('image')),
    (drop('annotations', 2, 'image_id'), OF.format('image')),
    (put('annotations', 2, 'category_id', 0), OF.format('category')),
    (drop('images', 1, 'file_name'), 'images without a file_name, 1 of 3, for exam'),
    (put('categories', 0, 'name', 7), 'categories without a name, 1 of 3, for exa'),
    (drop('images', 2, 'width'), SIZE),
    (put('images', 2, 'width', '64'), SIZE),
    (put('images', 2, 'height', 0), SIZE),
    (put('images', 2, 'height', NAN), SIZE),
    (
        drop('annotations', 1, 'bbox'),
        f'{BOX}, 1 of 5, for example {{"id": 2, "image_id',
    ),
    (put('annotations', 1, 'bbox', [1, 2, 3]), BOX),
    (put('annotations', 1, 'bbox', ['1', '2', '3', '4']), BOX),
    (put('annotations', 1, 'bbox', [1, 2, 3, None]), BOX),
    (put('annotations', 1, 'bbox', dict(x=1, y=2, w=3, h=4)), BOX),
    (put('annotations', 1, 'bbox', [1, NAN, 3, 4]), BOX),
    (put('annotations', 1, 'bbox', [-INFINITE, 1, INFINITE, 4]), BOX),
    (put('annotations', 1, 'bbox', [9, 9, -2, 3]), BOX),
    (put('annotations', 1, 'bbox', [9, 9, 2, -0.5]), BOX),
    (put('annotations', 1, 'area', '9'), BOX),
    (put('annotations', 1, 'area', -1), BOX),
    (put('annotations', 1, 'area', NAN), BOX),
    (drop('annotations', 1, 'area'), BOX),
    (
        put('annotations', 1, 'iscrowd', '0'),
        'annotations whose iscrowd is text, 1 of 5',
    ),
    (on_all(bbox=[0.1, 0.1, 0.5, 0.5], area=0.25), NOTHING),
    (on_all(iscrowd=1), NOTHING),
    (on_all(ignore=True), NOTHING),
    (on_all(bbox=[64, 0, 9, 9]), NOTHING),
    (on_all(area=0), NOTHING),
    (put_all(annotations=[]), NOTHING),
    (lambda content: content.pop('annotations'), NOTHING),
    (
        lambda content: (add('categories', id=4, name='hen')(content),)
        + (on_all(category_id=4)(content),),
        NOTHING,
    ),
    (put_all(images=[]), f'no images{ADVICE}'),
    (
        put_all(annotations=[5]),
        'annotations that are no objects, 1 of 1, for example 5',
    ),
    (add('categories', id=9), "the name 'cat' twice, so MMDetection would take cla"),
    (
        lambda content: content['categories'].reverse(),
        "the classes of train_dataloader in another order, 'cow' instead of 'cat', so",
    ),
]


@pytest.mark.parametrize(('change', 'said'), REJECTED)
def test_bad_content_is_rejected(root, change, said):
    content = coco()
    change(content)
    (root / 'a.json').write_text(json.dumps(content))
    assert refusal(config(root)).startswith(f'{root}/a.json has {said}')


def test_missing_classes_are_told(root):
    content = coco()
    content['categories'][0]['name'] = 'kitten'
    (root / 'a.json').write_text(json.dumps(content))
    assert refusal(config(root)) == (
        f'{root}/a.json lacks 1 of the 3 classes of train_dataloader, for example '
        "'cat', so MMDetection would take classes for each other: set "
        "train_dataloader.dataset.metainfo.classes to the file's, ('kitten', 'dog', "
        "'cow'), and the model's num_classes to their number, or use another file."
    )


# What is not JSON, or not that of COCO.
BROKEN = 'is empty, damaged or not JSON ('
OTHER = 'is not a COCO annotation file: '
TEXTS = {
    'nothing': (b'', f'{BROKEN}JSONDecodeError: '),
    'a page': (b'<html>404</html>', f'{BROKEN}JSONDecodeError: '),
    'bytes': (b'\xff\xd8\xff\xe0', f'{BROKEN}UnicodeDecodeError: '),
    'depth': (b'[' * 10**6, f'{BROKEN}RecursionError: '),
    'a list': (b'[]', f'{OTHER}an object with images, annotations and categories'),
    'an object': (b'{}', f'{OTHER}a list was expected as its images.'),
    'null': (b'{"annotations": null, "images": []}', f'{OTHER}a list was expected as'),
}


@pytest.mark.parametrize('name', TEXTS)
def test_other_files_are_rejected(root, name):
    content, said = TEXTS[name]
    (root / 'a.json').write_bytes(content)
    sentence = refusal(config(root))
    assert sentence.startswith(f'{root}/a.json {said}')
    assert sentence.count(str(root)) == 1


@pytest.mark.parametrize('percent', [1, 30, 60, 99])
def test_a_truncated_file_is_rejected(root, percent):
    content = (root / 'a.json').read_bytes()
    (root / 'a.json').write_bytes(content[: len(content) * percent // 100])
    assert refusal(config(root)).startswith(f'{root}/a.json {BROKEN}JSONDecodeError: ')


def test_a_folder_is_no_annotation_file(root):
    sentence = refusal(config(root, ann_file='images'))
    assert sentence == f'{root}/images cannot be read (Is a directory){ADVICE}'


OUTSIDE = (
    'has annotations whose box lies outside its image, 1 of 5, for example {"id": 2'
)
WARNED = [
    (put('annotations', 1, 'bbox', [-30, 4, 20, 30]), OUTSIDE),
    (put('annotations', 1, 'bbox', [4, -30, 20, 30]), OUTSIDE),
    (put('annotations', 1, 'bbox', [64, 4, 20, 30]), OUTSIDE),
    (put('annotations', 1, 'bbox', [4, 48, 20, 30]), OUTSIDE),
    (
        put('annotations', 1, 'bbox', [4, 4, 0.9, 9]),
        'less than a pixel wide or high or',
    ),
    (put('annotations', 1, 'bbox', [4, 4, 9, 0]), 'less than a pixel wide or high or'),
    (put('annotations', 1, 'area', 0), 'or has no area, 1 of 5, for example {"id": 2'),
    (
        put('annotations', 1, 'bbox', [40, 20, 60, 40]),
        'crosses the border of its image',
    ),
    (
        lambda content: [a.update(iscrowd=1) for a in content['annotations'][:3]],
        'has annotations that are crowds, 3 of 5, for example {"id": 1, ',
    ),
    (
        lambda content: (
            content['categories'].append(dict(id=4, name='hen')),
            content['annotations'][0].update(category_id=4),
        ),
        'has annotations of categories that are not asked for, 1 of 5, for example {',
    ),
    (
        add('images', id=99),
        'has images whose file_name another one has, 2 of 4, for example {"id": 7, ',
    ),
    (
        lambda content: [i.update(width=128, height=96) for i in content['images']],
        'a.json has other sizes than the images, 3 of 3, for example 128x96 for ',
    ),
    (
        # The file's own mistake, as no EXIF turns the image.
        lambda content: (
            content['images'][0].update(width=48, height=64),
            content['annotations'][0].update(bbox=[0, 0, 48, 64]),
        ),
        'a.json has other sizes than the images, 1 of 3, for example 48x64 for ',
    ),
]


@pytest.mark.parametrize(('change', 'said'), WARNED)
def test_odd_content_is_warned_of(root, log, change, said):
    content = coco()
    change(content)
    (root / 'a.json').write_text(json.dumps(content))
    *_, message = messages(config(root), log)
    assert said in message
    assert message.startswith(f'{root}/a.json has ')


def many(content, **entry):
    """Make the first of 500 annotations what real data has a few of."""
    one = content['annotations'][1]
    content['annotations'] = [dict(one, id=i) for i in range(500)]
    content['annotations'][0].update(entry)


GOOD = {
    'as it is': lambda content: None,
    'text as ids': lambda content: (
        [i.update(id=str(i['id'])) for i in content['images']],
        [a.update(image_id=str(a['image_id'])) for a in content['annotations']],
    ),
    'whole numbers as 1.0': put('annotations', 0, 'image_id', 7.0),
    'no width among many': lambda content: many(content, bbox=[9, 9, 0.0, 2], area=0.0),
    'past the border among many': lambda content: many(content, bbox=[60, 9, 9, 9]),
    'a rounded border': put('annotations', 0, 'bbox', [-0.5, 0, 65.3, 48.9]),
    'a crowd': lambda content: content['annotations'][0].update(
        iscrowd=1, segmentation=dict(counts=[0, 9], size=[48, 64])
    ),
    'an ignored one without a box': lambda content: content['annotations'].append(
        dict(id=9, image_id=7, category_id=1, ignore=1)
    ),
    'unused categories': lambda content: content['categories'].insert(
        1, dict(id=9, name='hen')
    ),
    'more': put_all(info={}, licenses=[], more=[1]),
}


@pytest.mark.parametrize('name', GOOD)
@pytest.mark.parametrize('loader', ['train_dataloader', 'test_dataloader'])
def test_usual_content_passes(root, log, name, loader):
    content = coco()
    GOOD[name](content)
    (root / 'a.json').write_text(json.dumps(content))
    assert messages(config(root, loader), log, loader) == []
    (summary,) = (message for _, message in log if 'checked in' in message)
    assert summary.startswith(f'{loader}: {root}/a.json and its images checked in ')
    # MMDetection takes it, too.
    settings = config(root, loader)[loader].dataset
    del settings['type'], settings['pipeline']
    assert len(CocoDataset(**settings, test_mode=True, serialize_data=False)) == len(
        content['images']
    )


WRAPPERS = {
    'RepeatDataset': lambda part: dict(type='RepeatDataset', times=2, dataset=part),
    'ConcatDataset': lambda part: dict(
        type='ConcatDataset', datasets=[dict(type='VOCDataset', ann_file=None), part]
    ),
    'ClassBalancedDataset': lambda part: dict(
        type='ClassBalancedDataset', oversample_thr=0.1, dataset=part
    ),
    'MultiImageMixDataset': lambda part: dict(
        type='MultiImageMixDataset', dataset=part, pipeline=[dict(type='Mosaic')]
    ),
    'both': lambda part: dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ConcatDataset', datasets=[part]),
    ),
}


@pytest.mark.parametrize('name', WRAPPERS)
def test_wrapped_data_sets_are_looked_into(root, log, name):
    cfg = config(root, wrap=WRAPPERS[name])
    assert messages(cfg, log) == []
    content = coco()
    put('annotations', 1, 'bbox', [9, 9, -2, 3])(content)
    (root / 'a.json').write_text(json.dumps(content))
    assert BOX in refusal(cfg)


class OwnDataset(CocoDataset):
    """A data set that reads its file in its own way."""

    def load_data_list(self):
        return []


@pytest.mark.parametrize(
    'settings',
    [
        dict(type='VOCDataset'),
        dict(type='LVISV1Dataset'),
        dict(type='CocoPanopticDataset'),
        dict(type='NoSuchDataset'),
        dict(type=OwnDataset),
        dict(no_such_argument=1),
    ],
)
def test_other_data_sets_are_left_alone(root, log, settings):
    (root / 'a.json').write_text('not for us')
    assert messages(config(root, **settings), log, least=logging.INFO) == []


@pytest.mark.parametrize(
    ('settings', 'is_local'),
    [
        (dict(backend_args=dict(backend='petrel')), False),
        (dict(data_prefix=dict(img='s3://images')), False),
        (dict(pipeline=[dict(LOAD, backend_args=dict(backend='petrel'))]), False),
        (dict(pipeline=[dict(LOAD, file_client_args=dict(backend='lmdb'))]), False),
        (dict(pipeline=[dict(LOAD, file_client_args=dict(backend='disk'))]), True),
        (dict(backend_args=dict(backend='local')), True),
        (dict(backend_args=None), True),
    ],
)
def test_only_remote_data_is_left_alone(root, log, settings, is_local):
    (root / 'images' / '0.jpg').unlink()
    cfg = config(root, **settings)
    if is_local:
        assert '(1 missing)' in refusal(cfg)
        return
    (message,) = messages(cfg, log, least=logging.INFO)
    assert 'not checked, as a storage backend reads them' in message


def test_classes_as_text(root):
    sentence = refusal(config(root, metainfo=dict(classes='cat')))
    assert (
        "write a tuple as metainfo.classes, ('cat',) if there is only one" in sentence
    )


def test_classes_of_the_data_set_itself(root):
    """Without metainfo MMDetection takes COCO's."""
    sentence = refusal(config(root, metainfo=None))
    assert 'lacks 77 of the 80 classes of train_dataloader' in sentence


def test_filtered_images_may_be_missing(root, log):
    (root / 'images' / '2.jpg').unlink()
    kept = dict(filter_cfg=dict(filter_empty_gt=True, min_size=32))
    assert messages(config(root, **kept), log) == []
    assert messages(config(root, indices=2), log) == []
    assert messages(config(root, indices=[1]), log) == []
    assert '(1 missing)' in refusal(config(root, indices=-1))
    assert '(1 missing)' in refusal(config(root))
    small = dict(filter_cfg=dict(min_size=49))
    assert 'has no annotation that train_dataloader could use' in refusal(
        config(root, **small)
    )


def test_whole_paths(root, tmp_path_factory, log):
    elsewhere = tmp_path_factory.mktemp('elsewhere') / 'other.jpg'
    (root / 'images' / '2.jpg').rename(elsewhere)
    content = coco()
    put('images', 2, 'file_name', str(elsewhere))(content)
    (root / 'a.json').write_text(json.dumps(content))
    assert messages(config(root), log) == []


def with_exif_thumbnail():
    image = Image.open(io.BytesIO(encoded('.jpg')))
    file = io.BytesIO()
    image.save(file, 'JPEG', exif=b'Exif\0\0' + encoded('.jpg', 1))
    return file.getvalue()


def grey_cmyk():
    file = io.BytesIO()
    Image.new('CMYK', (64, 48)).save(file, 'JPEG')
    return file.getvalue()


JPEG, PNG = encoded('.jpg'), encoded('.png')
BAD_IMAGES = {
    'missing': (None, 'missing'),
    'nothing': (b'', 'empty'),
    'a page': (b'<html>404</html>', 'no image'),
    'a pointer': (b'version https://git-lfs.github.com/spec/v1\n', 'no image'),
    'zeros': (bytes(5000), 'no image'),
    'a jpeg that ends in zeros': (JPEG[:2000] + bytes(900), 'truncated'),
    'a jpeg after its thumbnail': (with_exif_thumbnail()[:1500], 'truncated'),
    'a png without its end': (PNG[:-40], 'truncated'),
    'a png that ends in zeros': (PNG[:4000] + bytes(900), 'truncated'),
    'a bmp': (encoded('.bmp')[:5000], 'truncated'),
    **{
        f'a {kind}, {percent} %': (
            content[: len(content) * percent // 100],
            'truncated',
        )
        for kind, content in (('jpeg', JPEG), ('png', PNG))
        for percent in (1, 5, 25, 50, 75, 90, 98)
    },
}


@pytest.mark.parametrize('name', BAD_IMAGES)
@pytest.mark.parametrize('place', [0, 1])
def test_bad_images_are_refused(root, name, place):
    content, kind = BAD_IMAGES[name]
    path = root / 'images' / coco()['images'][place]['file_name']
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert refusal(config(root)) == (
        f'{root}/a.json names images that cannot be used, 1 of 3 (1 {kind}), for '
        f'example {path}: replace them, take them out of the list, or correct '
        'data_root, data_prefix or LoadImageFromFile of train_dataloader.'
    )


GOOD_IMAGES = {
    'a png in name only': PNG,
    'more than the image': JPEG + bytes(range(256)) * 40,
    'zeros after it': JPEG + bytes(9999),
    'a thumbnail': with_exif_thumbnail(),
    'cmyk': grey_cmyk(),
    'without an end mark': JPEG[:-2],
    **{
        suffix: encoded(suffix) for suffix in ('.bmp', '.webp', '.tiff', '.ppm', '.hdr')
    },
}


@pytest.mark.parametrize('name', GOOD_IMAGES)
def test_usual_images_pass(root, log, name):
    (root / 'images' / '0.jpg').write_bytes(GOOD_IMAGES[name])
    assert messages(config(root), log) == []
    assert cv2.imread(str(root / 'images' / '0.jpg')).shape == (48, 64, 3)


def in_format(name, mode='RGB', orientation=1, size=(64, 48)):
    """Encode an image with Pillow."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    settings = dict(exif=exif) if orientation > 1 else {}
    Image.new(mode, size).save(file, name, **settings)
    return file.getvalue()


@pytest.mark.parametrize(
    ('kind', 'mode', 'settings', 'is_good'),
    [
        ('TIFF', 'F', {}, False),
        ('TIFF', 'F', dict(color_type='unchanged', to_float32=True), True),
        ('TIFF', 'L', {}, True),
        ('TGA', 'RGB', {}, False),
        ('PCX', 'RGB', {}, False),
        ('DDS', 'RGB', {}, False),
        ('TGA', 'RGB', dict(imdecode_backend='pillow'), True),
        ('TIFF', 'F', dict(imdecode_backend='pillow'), True),
    ],
)
def test_images_are_judged_by_the_loader(root, log, kind, mode, settings, is_good):
    (root / 'images' / '0.jpg').write_bytes(in_format(kind, mode))
    cfg = config(root, pipeline=[dict(LOAD, **settings)])
    if is_good:
        assert messages(cfg, log) == []
    else:
        assert '1 of 3 (1 not decodable with cv2), for example' in refusal(cfg)


TURNED = "color_type='color_ignore_orientation' of train_dataloader's LoadImageFromFile"


@pytest.mark.parametrize('orientation', [1, 3, 5, 8])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_sizes_are_those_of_the_loaded_image(root, log, orientation, kind):
    """Whatever a backend does with the orientation of EXIF."""
    path = root / 'images' / '0.jpg'
    path.write_bytes(in_format(kind, orientation=orientation))
    content = coco()
    content['annotations'] = content['annotations'][1:]
    for settings in (
        {},
        dict(color_type='unchanged'),
        dict(color_type='color_ignore_orientation'),
        dict(imdecode_backend='pillow'),
    ):
        image = LoadImageFromFile(**settings)(dict(img_path=str(path)))
        width, height = image['img_shape'][::-1]
        cfg = config(root, pipeline=[dict(LOAD, **settings)])
        content['images'][0].update(width=width, height=height)
        (root / 'a.json').write_text(json.dumps(content))
        # The size of an image that is upside down does not show it.
        unsure = 'has 1 images that EXIF says to turn or mirror'
        assert [unsure in each for each in messages(cfg, log)] == [True] * (
            orientation == 3
        )
        content['images'][0].update(width=height, height=width)
        (root / 'a.json').write_text(json.dumps(content))
        if orientation >= 5:
            sentence = refusal(cfg)
            assert 'has width and height swapped for 1 of 3 images, wh' in sentence
            assert TURNED in sentence


def test_square_turned_images_are_doubtful(root, log):
    """Unless others that are not square prove how boxes were drawn."""
    content = coco()
    content['images'][0].update(width=48)
    content['annotations'] = content['annotations'][1:]
    (root / 'a.json').write_text(json.dumps(content))
    square = in_format('JPEG', orientation=6, size=(48, 48))
    (root / 'images' / '0.jpg').write_bytes(square)
    (message,) = messages(config(root), log)
    assert (
        'a.json has 1 images that EXIF says to turn or mirror, for example' in message
    )
    turned = in_format('JPEG', orientation=8, size=(48, 64))
    (root / 'images' / '2.jpg').write_bytes(turned)
    assert messages(config(root), log) == []


def test_sizes_of_images_without_boxes_do_not_matter(root, log):
    (root / 'images' / '0.jpg').write_bytes(in_format('JPEG', orientation=6))
    (root / 'a.json').write_text(json.dumps(dict(coco(), annotations=[])))
    cfg = config(root, 'test_dataloader')
    assert messages(cfg, log, 'test_dataloader') == []


def test_several_bad_images_are_all_named(root, log):
    (root / 'images' / '0.jpg').write_bytes(b'')
    (root / 'images' / '2.jpg').unlink()
    with pytest.raises(DataError, match=r'2 of 3 \(1 empty, 1 missing\)'):
        messages(config(root), log)
    ((_, message),) = log
    assert message == (
        f'2 of 2 bad images:\nempty: {root}/images/0.jpg\nmissing: {root}/images/2.jpg'
    )


def test_images_that_the_pipeline_may_skip(root, log):
    (root / 'images' / '0.jpg').unlink()
    cfg = config(root, pipeline=[dict(LOAD, ignore_empty=True)])
    (message,) = messages(cfg, log)
    assert message == (
        f'{root}/a.json names images that cannot be used, 1 of 3 (1 missing), for '
        f'example {root}/images/0.jpg: others are taken instead.'
    )


def test_images_that_nobody_is_known_to_read(root, log):
    (root / 'images' / '0.jpg').unlink()
    assert messages(config(root, pipeline=[dict(type='LoadIt')]), log) == []


def test_when_time_runs_out(root, log, monkeypatch):
    """A part of the images is opened, and it is said how many."""
    monkeypatch.setattr(image_files, '_CHUNK', 1)
    monkeypatch.setattr(data_checks, 'IMAGE_SECONDS', -1.0)
    (message,) = messages(config(root), log)
    assert message == (
        'train_dataloader: 0 of 3 images were opened in -1 s, and they are whole; the '
        'others exist.'
    )
    (root / 'images' / '0.jpg').unlink()
    assert '(1 missing)' in refusal(config(root))


@pytest.fixture
def evaluated(root, log):
    """Check what a change to a file of its own does to an evaluator."""
    truth = root / 'truth.json'

    def check(change, rejects=True, **settings):
        content = coco()
        change(content)
        truth.write_text(json.dumps(content))
        cfg = config(root, 'val_dataloader')
        cfg.val_evaluator = dict(type='CocoMetric', ann_file=str(truth), **settings)
        if not rejects:
            return messages(cfg, log, 'val_dataloader')
        sentence = refusal(cfg, 'val_dataloader')
        assert sentence.startswith(str(truth))
        return sentence

    return check


SEGMENTATION = [[1, 1, 20, 1, 20, 20]]
RLE = dict(counts=[0, 9], size=[48, 64])


def ids_as_text(kind, key, places):
    def change(content):
        for place in places:
            old = content[kind][place]['id']
            content[kind][place]['id'] = f'a{old}'
            for each in content['annotations']:
                each[key] = f'a{old}' if each[key] == old else each[key]

    return change


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda content: content['images'].pop(), 'lacks 1 of the 3 images in '),
        (
            lambda content: content['categories'].reverse(),
            'classes of val_dataloader in',
        ),
        (
            put('annotations', 1, 'bbox', [9, 9, -2, 3]),
            'without a bbox and an area, to e',
        ),
        (
            drop('annotations', 1, 'bbox'),
            'has annotations without a bbox and an area, to',
        ),
        (
            put('annotations', 1, 'id', 'a'),
            'without a number as id, to evaluate, 1 of 5',
        ),
        (
            drop('annotations', 1, 'iscrowd'),
            'without iscrowd, 0 or 1, to evaluate, 1 of',
        ),
        (
            put('annotations', 1, 'iscrowd', None),
            'without iscrowd, 0 or 1, to evaluate',
        ),
        (
            on_all(iscrowd=1),
            'has annotations to evaluate, all of which are crowds, 5 of 5',
        ),
        (
            ids_as_text('images', 'image_id', [0]),
            'images with text as id, while others',
        ),
        (
            ids_as_text('categories', 'category_id', [1]),
            'categories with text as id, whi',
        ),
    ],
)
def test_what_pycocotools_stops_at_is_rejected(evaluated, change, said):
    assert said in evaluated(change)


@pytest.mark.parametrize(
    'change',
    [
        lambda content: None,
        put('annotations', 1, 'id', '7'),
        put('annotations', 1, 'id', 0),
        put('annotations', 1, 'iscrowd', True),
        ids_as_text('categories', 'category_id', [0, 1, 2]),
        # Of a class that is not evaluated.
        lambda content: (
            content['categories'].append(dict(id=4, name='hen')),
            content['annotations'].append(dict(id=9, image_id=7, category_id=4)),
        ),
    ],
)
def test_what_pycocotools_takes_passes(evaluated, change):
    assert evaluated(change, rejects=False) == []


@pytest.mark.parametrize(
    ('value', 'is_good'),
    [
        (SEGMENTATION, True),
        ([*SEGMENTATION, []], True),
        (RLE, True),
        (dict(RLE, counts='0'), True),
        (dict(counts=[0, 9]), False),
        ([], False),
        ([[]], False),
        ([[1, 1, 20, 20]], False),
        ([1, 1, 20, 1, 20, 20], False),
        ([[[1, 1], [20, 1], [20, 20]]], False),
        ([[1, 1, 20, None, 20, 20]], False),
        ([[1, 1, 20, NAN, 20, 20]], False),
        (None, False),
        ('none', False),
    ],
)
def test_segmentations_to_evaluate(evaluated, value, is_good):
    def change(content):
        on_all(segmentation=SEGMENTATION)(content)
        content['annotations'][1]['segmentation'] = value

    said = 'has annotations without a segmentation, to evaluate, 1 of 5'
    if is_good:
        assert evaluated(change, rejects=False, metric=['bbox', 'segm']) == []
    else:
        assert said in evaluated(change, metric=['bbox', 'segm'])
    assert evaluated(change, rejects=False, metric='bbox') == []


def test_boxes_alone_cannot_be_evaluated_as_masks(root):
    """Neither with a file of the evaluator's own nor with the data set's."""
    cfg = config(root, 'val_dataloader')
    for settings in ({}, dict(ann_file=str(root / 'a.json'))):
        cfg.val_evaluator = dict(type='CocoMetric', metric='segm', **settings)
        sentence = refusal(cfg, 'val_dataloader')
        assert 'annotations without a segmentation, to evaluate, 5 of 5' in sentence


def test_missing_truth_is_told(root):
    cfg = config(root, 'val_dataloader')
    cfg.val_evaluator = dict(type='CocoMetric', ann_file=str(root / 'truth.json'))
    with pytest.raises(InputError, match='val_evaluator expects its data in '):
        check_data(cfg, 'val_dataloader')


MASKS = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
SHORT, SHORTER = [[1, 1, 20, 1]], [[1, 1, 20, 1, 3]]


@pytest.mark.parametrize(
    ('value', 'outcome'),
    [
        (SEGMENTATION, 'used'),
        ([*SHORT, *SEGMENTATION], 'used'),
        (RLE, 'used'),
        (SHORT, 'dropped'),
        (SHORTER, 'dropped'),
        ([[]], 'dropped'),
        (None, 'rejected'),
        ([], 'rejected'),
        ({}, 'rejected'),
        ([1, 1, 20, 1, 20, 20], 'rejected'),
        ([[1, 1, 20, NAN, 20, 20]], 'rejected'),
        ([[1, 1, '20', 1, 20, 20]], 'rejected'),
    ],
)
@pytest.mark.parametrize('loader', ['train_dataloader', 'val_dataloader'])
def test_masks_that_the_pipeline_loads(root, log, value, outcome, loader):
    content = coco()
    on_all(segmentation=SEGMENTATION)(content)
    content['annotations'][2]['segmentation'] = value
    (root / 'a.json').write_text(json.dumps(content))
    assert messages(config(root, loader), log, loader) == []
    cfg = config(root, loader, pipeline=[LOAD, MASKS])
    if outcome == 'rejected':
        assert (
            'has annotations without the segmentation that is loaded, a li'
            in refusal(cfg, loader)
        )
        return
    said = ''.join(messages(cfg, log, loader))
    assert ('without a polygon of three points, 1 of 5' in said) == (
        outcome == 'dropped'
    )
    assert (said == '') == (outcome == 'used')


def test_annotations_whose_masks_are_not_loaded(root, log):
    """Those that MMDetection drops before, and run lengths among polygons."""
    content = coco()
    on_all(segmentation=SEGMENTATION)(content)
    content['annotations'][0].update(segmentation=None, ignore=1)
    content['annotations'][1].update(segmentation=[], bbox=[70, 9, 9, 9])
    content['annotations'][2].update(segmentation=RLE, iscrowd=1)
    (root / 'a.json').write_text(json.dumps(content))
    cfg = config(root, pipeline=[LOAD, dict(MASKS, poly2mask=False)])
    (message,) = messages(cfg, log)
    assert 'lies outside its image, 1 of 5' in message


def test_segmentation_maps(root):
    maps = root / 'maps'
    maps.mkdir()
    for i in range(3):
        (maps / f'{i}.png').write_bytes(PNG)
    prefix = dict(img='images/', seg='maps/')
    step = dict(type='LoadAnnotations', with_seg=True)
    cfg = config(root, data_prefix=prefix, pipeline=[LOAD, step])
    check_data(cfg, 'train_dataloader')
    (maps / '1.png').unlink()
    assert f'1 of 3 (1 missing), for example {maps}/1.png' in refusal(cfg)
    check_data(config(root, data_prefix=prefix), 'train_dataloader')


def joined(*parts, evaluator=None):
    """A config that validates on several data sets, or trains on them."""
    loader = 'val_dataloader' if evaluator else 'train_dataloader'
    cfg = config(parts[0][0], loader)
    one = cfg[loader].dataset
    datasets = [dict(one, ann_file=str(root / name)) for root, name in parts]
    cfg[loader].dataset = dict(type='ConcatDataset', datasets=datasets)
    cfg.val_evaluator = evaluator
    return cfg


def shifted(content, offset):
    for image in content['images']:
        image['id'] += offset
    for each in content['annotations']:
        each['image_id'] += offset
    return content


def test_each_metric_is_checked_with_its_own_data(root, log):
    (root / 'b.json').write_text(json.dumps(shifted(coco(), 100)))
    metrics = [dict(type='CocoMetric', ann_file=f'{root}/{k}.json') for k in 'ab']
    several = dict(type='MultiDatasetsEvaluator', dataset_prefixes=['a', 'b'])
    parts = (root, 'a.json'), (root, 'b.json')
    cfg = joined(*parts, evaluator=dict(several, metrics=metrics))
    assert messages(cfg, log, 'val_dataloader') == []
    cfg = joined(*parts, evaluator=dict(several, metrics=metrics[::-1]))
    assert 'b.json lacks 3 of the 3 images in ' in refusal(cfg, 'val_dataloader')
    # One evaluator gets what is found in all data sets.
    cfg = joined(*parts, evaluator=metrics[0])
    assert 'a.json lacks 3 of the 3 images in ' in refusal(cfg, 'val_dataloader')
    both, other = coco(), shifted(coco(), 100)
    both['images'] += other['images']
    both['annotations'] += [dict(a, id=a['id'] + 9) for a in other['annotations']]
    (root / 'both.json').write_text(json.dumps(both))
    metric = dict(type='CocoMetric', ann_file=f'{root}/both.json')
    assert messages(joined(*parts, evaluator=metric), log, 'val_dataloader') == []


@pytest.mark.parametrize(
    'change',
    [
        put_all(annotations=[]),
        lambda content: content.pop('annotations'),
        put_all(annotations=[], categories=[]),
    ],
)
def test_unlabelled_images_beside_others(root, log, change):
    """As in semi-supervised training: one part of a loader has annotations."""
    content = coco()
    change(content)
    (root / 'unlabelled.json').write_text(json.dumps(content))
    unlabelled = (root, 'unlabelled.json')
    assert messages(joined((root, 'a.json'), unlabelled), log) == []
    assert 'has no annotation that train_dataloader could use' in refusal(
        joined(unlabelled, unlabelled)
    )
    (root / 'images' / '2.jpg').unlink()
    assert '(1 missing)' in refusal(joined(unlabelled))


def test_the_semi_supervised_config_of_mmdetection(root, log):
    cfg = Config.fromfile(
        Path(mmdet.__file__).parent / '.mim/configs/soft_teacher/'
        'soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    )
    for part in cfg.train_dataloader.dataset.datasets:
        name = 'unlabelled.json' if 'unlabeled' in part.ann_file else 'a.json'
        part.update(data_root=str(root), ann_file=name, data_prefix=dict(img='images/'))
        part.metainfo = dict(classes=CLASSES)
    content = coco()
    del content['annotations']
    (root / 'unlabelled.json').write_text(json.dumps(content))
    assert messages(cfg, log) == []
    assert len([each for each in log if 'checked in' in each[1]]) == 2


def test_images_to_test_without_annotations(root, log):
    content = coco()
    del content['annotations']
    (root / 'a.json').write_text(json.dumps(content))
    cfg = config(root, 'test_dataloader')
    metric = dict(type='CocoMetric', ann_file=str(root / 'a.json'))
    cfg.test_evaluator = [dict(metric, format_only=True)]
    assert messages(cfg, log, 'test_dataloader') == []
    cfg.test_evaluator = metric
    (message,) = messages(cfg, log, 'test_dataloader')
    assert message == (
        f'{root}/a.json has no annotations, so test_evaluator has nothing to judge by: '
        'every precision will be -1 unless test_evaluator.format_only is set.'
    )


@pytest.fixture
def folders(tmp_path):
    """Two classes of two images each, to train and to validate on, and lists."""
    (tmp_path / 'meta').mkdir()
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                (tmp_path / split / name / f'{i}.jpg').write_bytes(JPEG)
        lines = [
            f'{name}/{i}.jpg {k}' for k, name in enumerate(('cat', 'dog')) for i in '01'
        ]
        (tmp_path / 'meta' / f'{split}.list').write_text('\n'.join(lines))
    return tmp_path


def listing(root, num_classes=2, **settings):
    dataset = dict(type='CustomDataset', data_root=str(root), pipeline=[LOAD])
    loaders = {
        f'{split}_dataloader': dict(
            dataset=dict(dataset, data_prefix=split, **settings)
        )
        for split in ('train', 'val')
    }
    model = dict(head=dict(num_classes=num_classes))
    return Config(dict(default_scope='mmpretrain', model=model, **loaders))


LINE = 'cannot be read as images of train_dataloader (ValueError: '
LISTS = {
    'nothing': ('', 'is empty: a list of images was expected.'),
    'a blank line': ('cat/0.jpg 0\n\ndog/0.jpg 1', LINE),
    'no label': ('cat/0.jpg 0\ncat/1.jpg', LINE),
    'a comma': ('cat/0.jpg,0', LINE),
    'a name as label': ('cat/0.jpg cat', LINE),
    'labels from one': (
        'cat/0.jpg 1\ndog/0.jpg 2',
        'dog/0.jpg, where labels from 0, below 2 were expected: correct it or set the '
        "model's num_classes and train_dataloader.dataset.metainfo.classes.",
    ),
    'a negative label': (
        'cat/0.jpg -1',
        'has labels out of range, 1 of 1, for example -1',
    ),
    'a missing image': ('cat/0.jpg 0\ndog/7.jpg 1', 'be used, 1 of 2 (1 missing), '),
    'a folder in front': ('train/cat/0.jpg 0', 'cannot be used, 1 of 1 (1 missing), '),
    'a folder': ('cat 0', 'cannot be used, 1 of 1 (1 missing), '),
    'bytes': (
        JPEG,
        'cannot be read as images of train_dataloader (UnicodeDecodeError: ',
    ),
}


@pytest.mark.parametrize('name', LISTS)
def test_bad_lists_are_refused(folders, name):
    content, said = LISTS[name]
    path = folders / 'meta' / 'train.list'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    sentence = refusal(listing(folders, ann_file='meta/train.list'))
    assert sentence.startswith(f'{path} ')
    assert said in sentence


def test_usual_lists_and_folders_pass(folders, log):
    for loader in ('train_dataloader', 'val_dataloader'):
        for settings in (
            {},
            dict(ann_file='meta/train.list'),
            dict(with_label=False),
            dict(classes=['a', 'b']),
        ):
            assert messages(listing(folders, **settings), log, loader) == []
    # ImageNet looks for its list by itself.
    (folders / 'meta' / 'train.list').rename(folders / 'meta' / 'train.txt')
    cfg = listing(folders, 1000, type='ImageNet', split='train')
    assert messages(cfg, log) == []
    (folders / 'meta' / 'train.txt').write_text('cat/0.jpg 1000')
    assert 'labels from 0, below 1000 were expected' in refusal(cfg)


def test_a_list_without_labels(folders, log):
    path = folders / 'meta' / 'train.list'
    path.write_text('cat/0.jpg\ndog/1.jpg')
    cfg = listing(folders, ann_file='meta/train.list', with_label=False)
    assert messages(cfg, log) == []
    path.write_text('cat/0.jpg 0')
    assert '(1 missing)' in refusal(cfg)


def test_bad_folders_are_refused(folders):
    cfg = listing(folders)
    (folders / 'val' / '.ipynb_checkpoints').mkdir()
    assert refusal(cfg, 'val_dataloader') == (
        f'{folders}/val has other folders than {folders}/train, in 1 names, for '
        "example '.ipynb_checkpoints', and classes would be taken for each other: make "
        'the folders the same, empty ones too.'
    )
    assert "(AssertionError: The number of subfolders (2) doesn't match" in refusal(
        listing(folders, classes=['cat'])
    )
    assert 'has labels out of range, 2 of 4' in refusal(listing(folders, 1))
    (folders / 'train' / 'cat' / '0.jpg').write_bytes(JPEG[:900])
    assert (
        f'{folders}/train names images that cannot be used, 1 of 4 (1 tru'
        in refusal(cfg)
    )
    for path in folders.glob('train/*/*.jpg'):
        path.rename(path.with_suffix('.gif'))
    assert '(RuntimeError: Found 0 files in subfolders of: ' in refusal(cfg)


def network(classes, root, **settings):
    """A network with the heads of a detector, and the config of two data sets."""
    init_default_scope('mmdet')
    cfg = config(root, **settings)
    cfg.val_dataloader = copy.deepcopy(cfg.train_dataloader)
    box, mask = dict(num_classes=classes), dict(num_classes=80, num_convs=1)
    heads = nn.Module()
    heads.bbox_head = nn.ModuleList([BBoxHead(**box) for _ in range(2)])
    heads.mask_head = FCNMaskHead(**mask)
    model = nn.Module()
    model.rpn_head = RPNHead(in_channels=8, feat_channels=8)
    model.roi_head = heads
    return model, cfg


LOADERS = ('train_dataloader', 'val_dataloader')


def test_heads_of_fewer_classes_than_the_data(root):
    model, cfg = network(2, root)
    with pytest.raises(InputError) as error:
        check_heads(model, cfg, LOADERS)
    assert str(error.value) == (
        'the data of train_dataloader has 3 classes, the model roi_head.bbox_head.0.'
        'num_classes=2, roi_head.bbox_head.1.num_classes=2, so objects would be taken '
        'for background: set num_classes to 3, or train_dataloader.dataset.metainfo.'
        "classes to the model's."
    )
    student = nn.Module()
    student.student = RetinaHead(1, 8)
    with pytest.raises(InputError, match=r'the model student.num_classes=1, so obj'):
        check_heads(student, cfg, ('val_dataloader',))


def test_heads_of_more_classes_than_the_data(root, log):
    check_heads(*network(80, root), LOADERS)
    (message,) = (message for _, message in log)
    assert 'has 3 classes, the model roi_head.bbox_head.0.num_classes=80, ' in message
    assert message.endswith(': the others are never trained.')


@pytest.mark.parametrize(
    ('classes', 'settings'),
    [
        (3, {}),
        # Names of classes are prompts.
        (1, dict(return_classes=True)),
        (80, dict(type='CocoPanopticDataset', metainfo=None)),
        (20, dict(type='VOCDataset', data_root='VOC2007', metainfo=None)),
    ],
)
def test_heads_that_fit_the_data(root, log, classes, settings):
    check_heads(*network(classes, root, **settings), LOADERS)
    assert log == []


def test_other_data_is_compared_with_heads(root):
    voc = dict(type='VOCDataset', data_root='VOC2007', metainfo=None)
    with pytest.raises(InputError, match='has 20 classes, the model '):
        check_heads(*network(2, root, **voc), LOADERS)


@pytest.mark.parametrize(
    ('launcher', 'environment', 'expected'),
    [
        ('none', dict(LOCAL_RANK='1', SLURM_PROCID='3'), True),
        ('pytorch', dict(LOCAL_RANK='0', RANK='4'), True),
        ('pytorch', dict(LOCAL_RANK='1', RANK='1'), False),
        # The tools set LOCAL_RANK to 0 where nothing else does.
        ('slurm', dict(SLURM_LOCALID='1', SLURM_PROCID='5', LOCAL_RANK='0'), False),
        ('slurm', dict(SLURM_LOCALID='0', SLURM_PROCID='4'), True),
        ('slurm', dict(SLURM_PROCID='1'), False),
        ('slurm', dict(SLURM_PROCID='0'), True),
        ('mpi', dict(OMPI_COMM_WORLD_LOCAL_RANK='1'), False),
        ('mpi', dict(OMPI_COMM_WORLD_LOCAL_RANK='0'), True),
    ],
)
def test_the_first_process_of_a_machine_looks(
    monkeypatch, root, launcher, environment, expected
):
    for name in ('LOCAL_RANK', 'SLURM_LOCALID', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_of_machine(launcher) == expected
    (root / 'a.json').write_text('')
    seen = []

    class Runner:
        """What is built after the look."""

        model = nn.Identity()

        @classmethod
        def from_cfg(cls, cfg):
            seen.append(cfg.launcher)
            return cls()

    monkeypatch.setattr('mmcdnv2.engine.runner.join_processes', lambda *args: None)
    options = dict(launcher=launcher, runner_type=Runner)
    if expected:
        with pytest.raises(DataError, match='a.json is empty'):
            build_runner(config(root), ('train_dataloader',), **options)
        options['skip_data_check'] = True
    build_runner(config(root), ('train_dataloader',), **options)
    assert seen == [launcher]


def test_tools_refuse_bad_data(run, tiny_configs, digits, tmp_path, monkeypatch):
    """In one sentence, before anything is written; with the option they go on."""
    content = json.loads((digits / 'annotations' / 'train.json').read_text())
    content['annotations'][0]['bbox'] = [9, 9, -2, 3]
    file, work_dir = tmp_path / 'bad.json', tmp_path / 'work'
    file.write_text(json.dumps(content))
    arguments = [tiny_configs['detector'], '--work-dir', work_dir, '--cfg-options']
    option = f'train_dataloader.dataset.ann_file={file}'
    sentence = run('train.py', *arguments, option)
    total = len(content['annotations'])
    assert sentence.startswith(f'error: {file} has {BOX}, 1 of {total}, for example {{')
    assert sentence.endswith(
        f'{ADVICE} Set keys of the config with --cfg-options '
        'KEY=VALUE ... To go on all '
        'the same, --skip-data-check.'
    )
    assert not work_dir.exists()
    trained = []
    monkeypatch.setattr(Runner, 'train', lambda runner: trained.append(runner))
    assert run('train.py', *arguments, option, '--skip-data-check') == 0
    assert [runner.cfg.train_dataloader.dataset.ann_file for runner in trained] == [
        str(file)
    ]


def test_tools_compare_heads_with_the_data(run, tiny_configs, digits, tmp_path):
    """Before training and testing, with the classes that the model has by default."""
    option = 'model.roi_head.bbox_head.num_classes=9'
    arguments = [
        tiny_configs['detector'],
        '--work-dir',
        tmp_path,
        '--cfg-options',
        option,
    ]
    sentence = run('train.py', *arguments)
    assert sentence.startswith(
        'error: the data of train_dataloader has 10 classes, the model roi_head.bbox'
    )
    checkpoint = tmp_path / 'any.pth'
    torch.save({}, checkpoint)
    sentence = run('test.py', arguments[0], checkpoint, *arguments[1:])
    assert sentence.startswith(
        'error: the data of test_dataloader has 10 classes, the m'
    )


def test_a_study_looks_once(monkeypatch, folders):
    """Its entries share their data."""
    from lab.study import data

    seen = []
    monkeypatch.setattr(data, 'check_data', lambda cfg, loader: seen.append(loader))
    monkeypatch.setattr(data, '_look_into', lambda *_: data.DataSet(4, 2, (48, 64)))
    known = {}
    for _ in range(2):
        data.check_data_sets(listing(folders), ('train_dataloader',), known)
    assert seen == ['train_dataloader']
