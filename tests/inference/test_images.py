"""Which images are meant, and what their pictures are called."""

import os

import pytest

from mmcdnv2.errors import InputError
from mmcdnv2.inference.images import find_images, picture_names


@pytest.fixture
def folder(tmp_path):
    for name in ('b.PNG', 'a.jpg', 'notes.txt', 'below/c.png', 'odd[1].png'):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('')
    return tmp_path


def test_finds_files_folders_and_globs(folder):
    def names(*patterns):
        found = find_images([str(folder / pattern) for pattern in patterns])
        return [os.path.relpath(path, folder) for path in found]

    # What else is in a folder is left alone, also what is below it.
    assert names('') == ['a.jpg', 'b.PNG', 'odd[1].png']
    assert names('b*', 'a.jpg') == ['b.PNG', 'a.jpg']
    assert names('**/*.png') == ['below/c.png', 'odd[1].png']
    # A file is meant, even if its name could be a glob's, it is no image or missing.
    assert names('odd[1].png', 'notes.txt', 'missing.png') == [
        'odd[1].png',
        'notes.txt',
        'missing.png',
    ]
    assert names('', 'a.jpg', 'below/../b.PNG') == ['a.jpg', 'b.PNG', 'odd[1].png']


def test_no_image(folder, tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    for pattern in (str(empty), str(folder / '*.gif')):
        with pytest.raises(InputError, match='There is no image in .*(empty|gif)'):
            find_images([pattern])


def test_pictures_have_names_of_their_own():
    images = [
        'x/1.png',
        'y/1.png',
        '1.bmp',
        '1_2.png',
        'x/1.jpg',
        'y/1.JPEG',
        '1.b.tif',
    ]
    assert picture_names(images) == [
        '1.png',
        '1_3.png',
        '1_4.png',
        '1_2.png',
        '1.jpg',
        '1_2.jpg',
        '1.b.png',
    ]
    assert picture_names(['A.png', 'a.PNG']) == ['A.png', 'a_2.png']
