"""trainval35k and minival from a tiny COCO 2014."""

import errno
import json
import os

import pytest

from mmcdnv2.datasets.coco2014 import EXPECTED, Counts, make_trainval35k
from mmcdnv2.errors import InputError


def coco(image_ids, annotations_each):
    return dict(
        info={},
        categories=[dict(id=1, name='person')],
        images=[dict(id=i, file_name=f'COCO_{i:012d}.jpg') for i in image_ids],
        annotations=[
            dict(id=10 * i + j, image_id=i, category_id=1)
            for i in image_ids
            for j in range(annotations_each)
        ],
    )


@pytest.fixture
def folder(tmp_path):
    for split, content in dict(train=coco([1, 2], 3), val=coco([3, 4, 5], 2)).items():
        (tmp_path / f'instances_{split}2014.json').write_text(json.dumps(content))
    return tmp_path


# What made the tool end in a KeyError, or files without some of the images.
NO_NAMES = json.dumps(dict(coco([4], 1), images=[dict(id=4)]))
NO_IMAGE = json.dumps(dict(coco([4], 1), images=coco([5], 1)['images']))

COUNTS = dict(trainval35k=Counts(4, 10), minival2014=Counts(1, 2))


@pytest.mark.parametrize('form', ['json', 'ids', 'names'])
def test_splits(folder, form):
    minival = folder / f'minival.{"json" if form == "json" else "txt"}'
    minival.write_text(
        dict(
            json=json.dumps(coco([4], 1)),
            ids='4\n',
            names='val2014/COCO_val2014_000000000004.jpg\n\n',
        )[form]
    )
    assert make_trainval35k(folder, minival, COUNTS) == COUNTS
    parts = {
        name: json.loads((folder / f'instances_{name}.json').read_text())
        for name in COUNTS
    }
    images = {k: [i['id'] for i in v['images']] for k, v in parts.items()}
    assert images == dict(trainval35k=[1, 2, 3, 5], minival2014=[4])
    names = {i['file_name'] for part in parts.values() for i in part['images']}
    train = {f'train2014/COCO_{i:012d}.jpg' for i in (1, 2)}
    assert names == train | {f'val2014/COCO_{i:012d}.jpg' for i in (3, 4, 5)}
    annotations = {k: [a['id'] for a in v['annotations']] for k, v in parts.items()}
    assert annotations['minival2014'] == [40, 41]
    assert annotations['trainval35k'] == [10, 11, 12, 20, 21, 22, 30, 31, 50, 51]
    assert parts['minival2014']['categories'] == [dict(id=1, name='person')]


def test_counts_of_the_real_data():
    # 82,783 images with 604,907 annotations and 40,504 with 291,875.
    assert sum(count.images for count in EXPECTED.values()) == 82783 + 40504
    assert sum(count.annotations for count in EXPECTED.values()) == 604907 + 291875


@pytest.mark.parametrize(
    ('name', 'content', 'sentence'),
    [
        ('minival.txt', '4\n5', 'trainval35k would have 3 images and 8 annot'),
        ('minival.txt', '9', 'not in val2014, for example 9'),
        ('minival.txt', 'four', 'an image id or file name on each line'),
        ('instances_val2014.json', '{"images": [], "categories": []}', 'has no images'),
        ('instances_val2014.json', '{"images"', 'is empty, damaged or not JSON'),
        ('instances_val2014.json', '[]', 'is not a COCO annotation file'),
        ('instances_val2014.json', json.dumps(coco([4, 4], 0)), 'another one has, too'),
        ('instances_val2014.json', NO_NAMES, 'images without a file_name'),
        ('instances_val2014.json', NO_IMAGE, 'annotations whose image does not exist'),
        ('minival.json', '{"images": [7]}', 'has images that are no objects'),
        ('instances_val2014.json', None, 'There is no annotation file'),
        ('minival.txt', None, 'There is no list of minival'),
    ],
)
def test_wrong_files_write_nothing(folder, name, content, sentence):
    (folder / 'minival.txt').write_text('4')
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=sentence):
        minival = 'minival.json' if name == 'minival.json' else 'minival.txt'
        make_trainval35k(folder, folder / minival, COUNTS)
    assert sorted(folder.iterdir()) == before


def test_both_files_or_neither(folder, monkeypatch, small_files):
    (folder / 'minival.txt').write_text('4')
    for name in COUNTS:
        (folder / f'instances_{name}.json').write_text(f'old {name}')
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with small_files(500), pytest.raises(InputError, match='.File too large.: make'):
        make_trainval35k(folder, folder / 'minival.txt', COUNTS)
    real, calls = os.replace, []

    def second_fails(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', second_fails)
        with pytest.raises(InputError, match='minival2014.json cannot be written'):
            make_trainval35k(folder, folder / 'minival.txt', COUNTS)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert make_trainval35k(folder, folder / 'minival.txt', COUNTS) == COUNTS
