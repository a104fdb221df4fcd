"""Files are written whole or not at all, and refused in one sentence."""

import errno
import os

import pytest

from mmcdnv2.errors import InputError
from mmcdnv2.files import check_writable, replace_when_done


def write(path, text='new'):
    with replace_when_done(path) as partial:
        partial.write_text(text)


def test_writes_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'a' / 'b.txt'
    write(path, 'old')
    write(path)
    assert path.read_text() == 'new'
    with pytest.raises(KeyError), replace_when_done(path) as partial:
        assert (partial.parent, partial.suffix) == (path.parent, '.txt')
        assert not partial.exists()
        partial.write_text('half')
        raise KeyError
    assert path.read_text() == 'new'
    assert os.listdir(path.parent) == ['b.txt']


@pytest.mark.parametrize('function', [write, check_writable])
def test_refuses_what_cannot_be_written(tmp_path, function):
    (tmp_path / 'file').write_text('text')
    for name, reason in (
        ('.', 'is a folder: the name of a file'),
        ('file/a.txt', 'file cannot be a folder'),
        (f'new/{300 * "x"}.txt', r'xxx\.txt cannot be written \(File name too long\)'),
    ):
        with pytest.raises(InputError, match=reason):
            function(tmp_path / name)
    assert (tmp_path / 'file').read_text() == 'text'


def test_a_look_leaves_no_trace(tmp_path):
    check_writable(tmp_path / 'a' / 'b' / 'c.txt')
    assert os.listdir(tmp_path) == []
    (tmp_path / 'c.txt').write_text('text')
    check_writable(tmp_path / 'c.txt')
    assert (tmp_path / 'c.txt').read_text() == 'text'
    assert os.listdir(tmp_path) == ['c.txt']


def test_a_target_that_becomes_a_folder(tmp_path):
    path = tmp_path / 'a.txt'
    refused = pytest.raises(InputError, match=r'a\.txt cannot be written \(Is a dir')
    with refused, replace_when_done(path) as partial:
        partial.write_text('new')
        path.mkdir()
    assert os.listdir(tmp_path) == ['a.txt']


def test_only_errors_of_its_own_file_are_the_users(tmp_path):
    path = tmp_path / 'a.txt'
    with pytest.raises(FileNotFoundError, match='other'), replace_when_done(path):
        (tmp_path / 'other').read_text()
    refused = pytest.raises(InputError, match=r'a\.txt cannot be written \(No space')
    with refused, replace_when_done(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    refused = pytest.raises(InputError, match=r'a\.txt cannot be written \(No such')
    with refused, replace_when_done(path) as partial:
        partial.read_text()
    assert os.listdir(tmp_path) == []
