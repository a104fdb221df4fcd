"""Bad data is refused or warned of before a training; what is usual is not."""

import io
import json
import logging
import math

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mmcdnv2.datasets import image_files
from mmcdnv2.engine import build_runner, data_checks
from mmcdnv2.engine.data_checks import check_data, is_first_of_machine
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


# By name what is done to the content above, and what is said of the file.
REFUSED = {}
ID = 'that is a whole number or text'
POSITIVE = 'that is a number above 0'
for kind, count, key, article, words, values in (
    ('images', 3, 'id', 'an', ID, [None, True, 1.5, NAN, [1], {}]),
    ('categories', 3, 'id', 'an', ID, [None, False, 1.5, INFINITE, [], {}]),
    ('annotations', 5, 'id', 'an', ID, [None, True, 0.1, NAN, [1], {}]),
    ('annotations', 5, 'image_id', 'an', ID, [None, True, 7.5, [7], {}]),
    ('annotations', 5, 'category_id', 'a', ID, [None, True, 1.5, [1], {}]),
    ('images', 3, 'file_name', 'a', 'that is text', [None, 7, ['0.jpg']]),
    ('categories', 3, 'name', 'a', 'that is text', [None, 7, ['cat']]),
    ('images', 3, 'width', 'a', POSITIVE, [None, '64', 0, -64, NAN, INFINITE, True]),
    ('images', 3, 'height', 'a', POSITIVE, [None, '48', 0, -48, NAN, 10**400, [48]]),
):
    said = (
        f'has {kind} without {article} {key} {words}, 1 of {count}, for example number '
    )
    REFUSED[f'{kind} without {key}'] = drop(kind, 0, key), f'{said}1, {{'
    for value in values:
        change = put(kind, 1, key, value)
        REFUSED[f'{kind} with {key} {value!r:.9}'] = change, f'{said}2, {{'
for words, values in (
    (
        'whose bbox is not a list of four numbers',
        [None, [], [1, 2, 3], [1, 2, 3, 4, 5], ['1', '2', '3', '4'], [[1, 2, 3, 4]]],
    ),
    (
        'whose bbox is not a list of four numbers',
        [[1, 2, 3, None], [1, 2, 3, True], dict(x=1, y=2, w=3, h=4), '1234', 4],
    ),
    ('whose bbox is infinite or NaN', [[NAN, 1, 2, 3], [1, 2, NAN, 3], [1, 2, 3, NAN]]),
    ('whose bbox is infinite or NaN', [[1, 2, INFINITE, 3], [1, -INFINITE, 2, 3]]),
    ('whose bbox is infinite or NaN', [[1, 2, 3, 10**400]]),
    ('whose box has a negative size', [[9, 9, -2, 3], [9, 9, 2, -0.5], [9, 9, -2, -2]]),
):
    for value in values:
        REFUSED[f'box {value!r:.20}'] = (
            put('annotations', 1, 'bbox', value),
            f'has annotations {words}, 1 of 5, for example number 2, '
            '{"id": 2, "image_id": 8, "category_id": 2, "bbox": ',
        )
for value, words in (
    ('9', 'without an area that is a number'),
    (None, 'without an area that is a number'),
    (-1, 'whose area is not a number from 0'),
    (NAN, 'whose area is not a number from 0'),
    (INFINITE, 'whose area is not a number from 0'),
):
    said = f'has annotations {words}, 1 of 5, for example number 5, {{"id": 5, '
    REFUSED[f'area {value}'] = put('annotations', 4, 'area', value), said
for kind, count in (('images', 3), ('annotations', 5), ('categories', 3)):
    REFUSED[f'{kind} of one id'] = (
        put(kind, 1, 'id', coco()[kind][0]['id']),
        f'has {kind} whose id another one has, too, 1 of {count}, for '
        'example number 1, ',
    )
    for value in ({}, 'none', None, 3):
        found = {dict: 'an object', str: 'text', int: 'a number'}.get(
            type(value), 'null'
        )
        REFUSED[f'{kind} are {value!r}'] = (
            put_all(**{kind: value}),
            f'is not a COCO annotation file: a list was expected as its {kind}, there '
            f'is {found}.',
        )
    REFUSED[f'{kind} not there'] = (
        lambda content, kind=kind: content.pop(kind),
        f'a list was expected as its {kind}, there is nothing.',
    )
    REFUSED[f'{kind} of a number'] = (
        lambda content, kind=kind: content[kind].insert(1, 5),
        f'has {kind} that are no objects, 1 of {count + 1}, for '
        f'example number 2, 5{ADVICE}',
    )
REFUSED.update(
    {
        'no images': (put_all(images=[]), f'has no images{ADVICE}'),
        'no categories': (put_all(categories=[]), f'has no categories{ADVICE}'),
        'no annotations': (
            put_all(annotations=[]),
            'has no annotation that train_data',
        ),
        'image not there': (
            put('annotations', 2, 'image_id', 99),
            'has annotations of an image that it does not have, 1 of 5, for example '
            'number 3, {"id": 3, "image_id": 99, ',
        ),
        'image id as text': (
            put('annotations', 2, 'image_id', '7'),
            'has annotations of an image that it does not have, 1 of 5, ',
        ),
        'category not there': (
            put('annotations', 0, 'category_id', 0),
            'has annotations of a category that it does not have, 1 of 5, ',
        ),
        'lacks a class': (
            lambda content: content['categories'][0].update(name='kitten'),
            'lacks 1 of the 3 classes that train_dataloader asks for, '
            "for example 'cat', "
            'and the others would be taken for each other: set '
            'train_dataloader.dataset.'
            "metainfo.classes to the file's, ('kitten', 'dog', 'cow'), and the model's "
            'num_classes to their number, or use another file.',
        ),
        'other order': (
            lambda content: content['categories'].reverse(),
            "has the classes of train_dataloader in another order, the first 'cow' "
            "instead of 'cat', and they would be taken for each other: ",
        ),
        'a name twice': (
            add('categories', id=9),
            f"has more than one category 'cat'{ADVICE}",
        ),
        'boxes in fractions': (
            lambda content: [
                a.update(bbox=[0.1, 0.1, 0.5, 0.5], area=0.25)
                for a in content['annotations']
            ],
            'has no annotation that train_dataloader could use, out of 5: boxes of its '
            'classes, at least a pixel wide and high, inside of images that its '
            'filter_cfg keeps were expected; correct the file or use another one.',
        ),
        'other classes only': (
            lambda content: (
                content['categories'].append(dict(id=4, name='hen')),
                [a.update(category_id=4) for a in content['annotations']],
            ),
            'has no annotation that train_dataloader could use, out of 5: ',
        ),
        'crowds only': (
            lambda content: [a.update(iscrowd=1) for a in content['annotations']],
            'has no annotation that train_dataloader could use, out of 5: ',
        ),
        'all ignored': (
            lambda content: [a.update(ignore=True) for a in content['annotations']],
            'has no annotation that train_dataloader could use, out of 5: ',
        ),
        'all outside': (
            lambda content: [
                a.update(bbox=[64, 0, 9, 9]) for a in content['annotations']
            ],
            'has no annotation that train_dataloader could use, out of 5: ',
        ),
        'all areas zero': (
            lambda content: [a.update(area=0) for a in content['annotations']],
            'has no annotation that train_dataloader could use, out of 5: ',
        ),
    }
)


@pytest.mark.parametrize('name', REFUSED)
def test_bad_content_is_refused(root, name):
    change, said = REFUSED[name]
    content = coco()
    change(content)
    (root / 'a.json').write_text(json.dumps(content))
    sentence = refusal(config(root))
    assert sentence.startswith(f'{root}/a.json ')
    assert said in sentence


# What is no JSON, or none that begins as it should.
TEXTS = {
    'nothing': (b'', f'is empty{ADVICE}'),
    'a list': (
        b'[]',
        'an object with images, annotations and categories was expected, ',
    ),
    'text': (b'"images"', 'it holds text.'),
    'null': (b'null', 'it holds null.'),
    'a number': (b'5', 'it holds a number.'),
    'bytes': (b'\xff\xd8\xff\xe0', 'is damaged or is not JSON (UnicodeDecodeError: '),
    'zeros': (bytes(99), 'is damaged or is not JSON (JSONDecodeError: Expecting value'),
    'a page': (b'<html>404</html>', 'is damaged or is not JSON (JSONDecodeError: Exp'),
    'a mark': (b'\xef\xbb\xbf{}', 'is damaged or is not JSON (JSONDecodeError: '),
    'depth': (b'[' * 10**6, 'is damaged or is not JSON (RecursionError: '),
    'a comma': (b'{"images": [1,]}', 'is damaged or is not JSON (JSONDecodeError: '),
    'a pointer': (b'version https://git-lfs.github.com/spec/v1\n', 'is damaged or is '),
}


@pytest.mark.parametrize('name', TEXTS)
def test_what_is_no_annotation_file_is_refused(root, name):
    content, said = TEXTS[name]
    (root / 'a.json').write_bytes(content)
    sentence = refusal(config(root))
    assert said in sentence
    # The sentence is not one within another.
    assert sentence.startswith(f'{root}/a.json is ')
    assert sentence.count(str(root)) == 1


@pytest.mark.parametrize('percent', range(0, 100, 4))
def test_a_truncated_file_is_refused(root, percent):
    content = (root / 'a.json').read_bytes()
    (root / 'a.json').write_bytes(content[: len(content) * percent // 100])
    said = 'is damaged or is not JSON (JSONDecodeError: ' if percent else 'is empty: '
    assert refusal(config(root)).startswith(f'{root}/a.json {said}')


def test_a_folder_is_no_annotation_file(root):
    sentence = refusal(config(root, ann_file='images'))
    assert sentence == f'{root}/images cannot be read (Is a directory){ADVICE}'


WARNED = {
    'left of the image': (
        put('annotations', 1, 'bbox', [-30, 4, 20, 30]),
        'has annotations whose box lies outside of its image, 1 of '
        '5, for example number '
        '2, {"id": 2, "image_id": 8, "category_id": 2, "bbox": [-30, '
        '4, 20, 30], "area": '
        '600}: MMDetection leaves them out; a box is left, top, width and height.',
    ),
    'above': (
        put('annotations', 1, 'bbox', [4, -30, 20, 30]),
        'outside of its image, 1',
    ),
    'right': (
        put('annotations', 1, 'bbox', [64, 4, 20, 30]),
        'outside of its image, 1',
    ),
    'below': (
        put('annotations', 1, 'bbox', [4, 48, 20, 30]),
        'outside of its image, 1',
    ),
    'narrow': (
        put('annotations', 1, 'bbox', [4, 4, 0.9, 9]),
        'less than a pixel wide or',
    ),
    'flat': (put('annotations', 1, 'bbox', [4, 4, 9, 0]), 'less than a pixel wide or'),
    'no area': (put('annotations', 1, 'area', 0), 'or has no area, 1 of 5, for exa'),
    'corners': (
        put('annotations', 1, 'bbox', [40, 20, 60, 40]),
        'has annotations whose box passes the border of its image, 1 '
        'of 5, for example ',
    ),
    'a class more': (
        lambda content: (
            content['categories'].append(dict(id=4, name='hen')),
            content['annotations'][0].update(category_id=4),
        ),
        'has annotations of categories that are not asked for, 1 of '
        '5, for example number',
    ),
    'an image twice': (
        add('images', id=99),
        'has images whose file_name another one has, too, 1 of 4, '
        'for example number 1, '
        '{"id": 7, "file_name": "0.jpg", "width": 64, "height": 48}: '
        'each is trained on ',
    ),
    'other sizes': (
        lambda content: [i.update(width=128, height=96) for i in content['images']],
        'a.json has other sizes than the images, 3 of 3, for example 128x96 for ',
    ),
}


@pytest.mark.parametrize('name', WARNED)
def test_odd_content_is_warned_of(root, log, name):
    change, said = WARNED[name]
    content = coco()
    change(content)
    (root / 'a.json').write_text(json.dumps(content))
    (message,) = messages(config(root), log)
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
    'a turned image': lambda content: (
        content['images'][0].update(width=48, height=64),
        content['annotations'][0].update(bbox=[0, 0, 48, 64]),
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
    assert f'{loader}: {root}/a.json, 3 images, ' in summary
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
    assert 'whose box has a negative size' in refusal(cfg)


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
        dict(backend_args=dict(backend='petrel')),
        dict(pipeline=[dict(LOAD, backend_args=dict(backend='petrel'))]),
    ],
)
def test_other_data_sets_are_left_alone(root, log, settings):
    (root / 'a.json').write_text('not for us')
    assert messages(config(root, **settings), log, least=logging.INFO) == []


def test_classes_as_text(root):
    sentence = refusal(config(root, metainfo=dict(classes='cat')))
    assert (
        "write a tuple as metainfo.classes, ('cat',) if there is only one" in sentence
    )


def test_classes_of_the_data_set_itself(root):
    """Without metainfo MMDetection takes COCO's."""
    sentence = refusal(config(root, metainfo=None))
    assert 'lacks 77 of the 80 classes that train_dataloader asks for' in sentence


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
        f'{root}/a.json names images that cannot be used, 1 of 3 (1 '
        f'{kind}), for example '
        f'{path}: put them there again, take them out of the list or set '
        'train_dataloader.dataset.data_root (and data_prefix).'
    )


def test_an_unreadable_image(root):
    (root / 'images' / '0.jpg').unlink()
    (root / 'images' / '0.jpg').mkdir()
    assert '1 of 3 (1 unreadable), for example ' in refusal(config(root))


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


def test_several_bad_images_are_all_named(root, log):
    (root / 'images' / '0.jpg').write_bytes(b'')
    (root / 'images' / '2.jpg').unlink()
    with pytest.raises(DataError, match=r'2 of 3 \(1 empty, 1 missing\)'):
        messages(config(root), log)
    ((_, message),) = log
    assert message == (
        '2 of 2 images that cannot be used:\n'
        f'empty: {root}/images/0.jpg\nmissing: {root}/images/2.jpg'
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
        'others are there.'
    )
    (root / 'images' / '0.jpg').unlink()
    assert '(1 missing)' in refusal(config(root))


def test_evaluators(root, log):
    cfg = config(root, 'val_dataloader')
    truth = root / 'truth.json'
    cfg.val_evaluator = dict(type='CocoMetric', ann_file=str(truth))

    def said(content):
        truth.write_text(json.dumps(content))
        return refusal(cfg, 'val_dataloader')

    with pytest.raises(InputError, match='val_evaluator expects its annotations in '):
        check_data(cfg, 'val_dataloader')
    truth.write_text(json.dumps(coco()))
    assert messages(cfg, log, 'val_dataloader') == []
    fewer = coco()
    fewer['images'].pop()
    assert said(fewer) == (
        f'{truth} lacks 1 of the 3 images in {root}/a.json, for '
        'example that of id 9, so '
        'what is found in them cannot be judged: set '
        'val_evaluator.ann_file to the file '
        'of val_dataloader.'
    )
    reversed_classes = coco()
    reversed_classes['categories'].reverse()
    assert f'{truth} has the classes of val_dataloader in another order' in said(
        reversed_classes
    )
    negative = coco()
    put('annotations', 1, 'bbox', [9, 9, -2, 3])(negative)
    assert f'{truth} has annotations whose box has a negative size' in said(negative)


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


LINE = 'lines that are not the name of an image, a space and the number of its class'
LISTS = {
    'nothing': ('', 'is empty: a list of images was expected.'),
    'blank lines': ('\n\n\n', 'is empty: a list of images was expected.'),
    'a blank line': (
        'cat/0.jpg 0\n\ndog/0.jpg 1',
        f"{LINE}, 1 of 3, for example line 2, ''",
    ),
    'a blank end': ('cat/0.jpg 0\n\n', f"{LINE}, 1 of 2, for example line 2, ''"),
    'no label': (
        'cat/0.jpg 0\ncat/1.jpg',
        f"{LINE}, 1 of 2, for example line 2, 'cat/1.j",
    ),
    'a tab': ('cat/0.jpg\t0', f"{LINE}, 1 of 1, for example line 1, 'cat/0.jpg\\t0'"),
    'a comma': ('cat/0.jpg,0', f'{LINE}, 1 of 1, for example line 1, '),
    'a name as label': ('cat/0.jpg cat', f'{LINE}, 1 of 1, for example line 1, '),
    'a fraction': ('cat/0.jpg 0.0', f'{LINE}, 1 of 1, for example line 1, '),
    'a label alone': ('0', f'{LINE}, 1 of 1, for example line 1, '),
    'labels from one': (
        'cat/0.jpg 1\ndog/0.jpg 2',
        'has labels out of range, 1 of 2, for example 2 of '
        'dog/0.jpg, where labels from '
        "0 to 1 were expected: correct it or set the model's num_classes and "
        'train_dataloader.dataset.metainfo.classes.',
    ),
    'a negative label': (
        'cat/0.jpg -1',
        'has labels out of range, 1 of 1, for example -1',
    ),
    'a missing image': (
        'cat/0.jpg 0\ndog/7.jpg 1',
        'cannot be used, 1 of 2 (1 missing), ',
    ),
    'a folder in front': ('train/cat/0.jpg 0', 'cannot be used, 1 of 1 (1 missing), '),
    'a folder': ('cat 0', 'cannot be used, 1 of 1 (1 unreadable), '),
    'bytes': (JPEG, 'cannot be read as a list of images (UnicodeDecodeError: '),
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
    assert 'labels from 0 to 999 were expected' in refusal(cfg)


def test_a_list_without_labels(folders, log):
    path = folders / 'meta' / 'train.list'
    path.write_text('cat/0.jpg\ndog/1.jpg')
    cfg = listing(folders, ann_file='meta/train.list', with_label=False)
    assert messages(cfg, log) == []
    path.write_text('cat/0.jpg 0')
    assert '(1 missing)' in refusal(cfg)


def test_an_image_of_two_classes_is_warned_of(folders, log):
    (folders / 'meta' / 'train.list').write_text(
        'cat/0.jpg 0\ncat/0.jpg 1\ncat/0.jpg 1'
    )
    (message,) = messages(listing(folders, ann_file='meta/train.list'), log)
    assert message == (
        f'{folders}/meta/train.list has images with more than one label, 1 of 1, for '
        'example cat/0.jpg: each label is trained on.'
    )


def test_bad_folders_are_refused(folders):
    cfg = listing(folders)
    (folders / 'val' / '.ipynb_checkpoints').mkdir()
    assert refusal(cfg, 'val_dataloader') == (
        f'{folders}/val has other folders than {folders}/train, in 1 names, for '
        "example '.ipynb_checkpoints', and classes would be taken for each other: make "
        'the folders the same, empty ones too.'
    )
    assert refusal(listing(folders, classes=['cat'])) == (
        f'{folders}/train has 2 folders and train_dataloader 1 '
        'classes: a folder for each '
        'class was expected.'
    )
    assert 'has labels out of range, 2 of 4' in refusal(listing(folders, 1))
    (folders / 'train' / 'cat' / '0.jpg').write_bytes(JPEG[:900])
    assert (
        f'{folders}/train names images that cannot be used, 1 of 4 (1 tru'
        in refusal(cfg)
    )
    for path in folders.glob('train/*/*.jpg'):
        path.rename(path.with_suffix('.gif'))
    assert refusal(cfg) == (
        f'{folders}/train has no images (.bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif) in '
        'folders named by their class: put them there or set train_dataloader.dataset.'
        'data_root (and data_prefix).'
    )


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
    assert sentence.startswith(
        f'error: {file} has annotations whose box has a negative '
        f'size, 1 of {total}, for '
        'example number 1, {"id": 1, '
    )
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
