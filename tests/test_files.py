"""Atomic writes and their errors."""

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from mmcdnv2.errors import InputError
from mmcdnv2.files import (
    check_writable,
    make_folder_when_done,
    replace_all_when_done,
    replace_when_done,
)


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
    # That another disk is full is not the fault of this one.
    with pytest.raises(OSError, match='other') as raised, replace_when_done(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'other')
    assert not isinstance(raised.value, InputError)
    refused = pytest.raises(InputError, match=r'a\.txt cannot be written \(No such')
    with refused, replace_when_done(path) as partial:
        partial.read_text()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('function', [write, check_writable])
def test_only_files_are_replaced(tmp_path, function):
    # It stands for /dev/null, which a test that fails as root would take from everyone.
    path = tmp_path / 'pipe'
    os.mkfifo(path)
    before = path.stat()
    with pytest.raises(
        InputError, match=f'^{path} is not a regular file: choose another'
    ):
        function(path)
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize('function', [write, check_writable])
def test_protected_files_stay(tmp_path, function, monkeypatch):
    path = tmp_path / 'a.txt'
    write(path, 'old')
    # Root may write to all.
    monkeypatch.setattr(os, 'access', lambda *_: False)
    with pytest.raises(
        InputError, match=r'a\.txt cannot be written \(Permission denied'
    ):
        function(path)
    assert path.read_text() == 'old'


def test_a_link_stays(tmp_path):
    path = tmp_path / 'link.txt'
    path.symlink_to('elsewhere/real.txt')
    write(path)
    write(path)
    assert os.readlink(path) == 'elsewhere/real.txt'
    assert os.listdir(tmp_path / 'elsewhere') == ['real.txt']
    assert path.read_text() == 'new'


@pytest.mark.parametrize('umask', [0o022, 0o077, 0])
def test_modes_are_those_of_open(tmp_path, umask):
    before = os.umask(umask)
    try:
        paths = [tmp_path / 'plain' / 'a', tmp_path / 'ours' / 'a']
        paths[0].parent.mkdir()
        for mode in (None, 0o600, 0o664):
            for path, function in zip(paths, (Path.write_text, write)):
                if mode:
                    path.chmod(mode)
                function(path, 'text')
            assert paths[0].stat().st_mode == paths[1].stat().st_mode
        assert paths[0].parent.stat().st_mode == paths[1].parent.stat().st_mode
        with make_folder_when_done(tmp_path / 'made') as partial:
            (partial / 'a').touch()
        made = (tmp_path / 'made').stat().st_mode
        assert stat.S_IMODE(made) == 0o777 & ~umask
    finally:
        os.umask(before)


def test_what_is_renamed_is_on_the_disk(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, 'fsync', lambda file: calls.append(os.fstat(file).st_ino) or sync(file)
    )
    monkeypatch.setattr(
        os, 'replace', lambda a, b: calls.append(os.stat(a).st_ino) or replace(a, b)
    )
    with replace_all_when_done([tmp_path / 'a', tmp_path / 'b']) as partials:
        for partial in partials:
            partial.write_text('text')
        numbers = [partial.stat().st_ino for partial in partials]
    assert calls == 2 * numbers


@pytest.fixture(params=['both there', 'none there', 'the first', 'the second'])
def pair(request, tmp_path):
    """Two files, and what should be left of them if something fails."""
    paths = [tmp_path / 'a.py', tmp_path / 'b.pth']
    there = {'both there': paths, 'none there': [], 'the first': paths[:1]}
    for path in there.get(request.param, paths[1:]):
        path.write_text('old')
    return paths


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def write_pair(pair):
    with replace_all_when_done(pair) as partials:
        for partial in partials:
            partial.write_text('new')


@pytest.mark.parametrize('links', [True, False])
@pytest.mark.parametrize('error', [KeyboardInterrupt, PermissionError])
@pytest.mark.parametrize('call', ['fsync', 'replace'])
@pytest.mark.parametrize('number', [1, 2])
def test_both_or_neither(pair, tmp_path, monkeypatch, number, call, error, links):
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        real, calls = getattr(os, call), []

        def function(*args):
            calls.append(args)
            if len(calls) == number:
                raise error(errno.EACCES, os.strerror(errno.EACCES), str(pair[1]))
            return real(*args)

        patch.setattr(os, call, function)
        if not links:
            patch.setattr(os, 'link', no_links)
        expected = KeyboardInterrupt if error is KeyboardInterrupt else InputError
        with pytest.raises(expected) as raised:
            write_pair(pair)
    if expected is InputError:
        assert str(raised.value) == (
            f'{pair[1]} cannot be written (Permission denied): choose another name or '
            'folder.'
        )
    assert contents(tmp_path) == before
    write_pair(pair)
    assert contents(tmp_path) == {'a.py': 'new', 'b.pth': 'new'}


def no_links(*args):
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_disk_that_is_full_for_the_copy_of_the_old_file(tmp_path, monkeypatch):
    pair = [tmp_path / 'a.py', tmp_path / 'b.pth']
    for path in pair:
        path.write_text('old')

    def copy(source, target):
        Path(target).write_text('o')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'link', no_links)
        patch.setattr(shutil, 'copy2', copy)
        with pytest.raises(InputError, match=r'\(No space left on device\): make room'):
            write_pair(pair)
    assert contents(tmp_path) == {'a.py': 'old', 'b.pth': 'old'}


def test_a_disk_that_becomes_read_only(tmp_path, monkeypatch):
    path = tmp_path / 'a.txt'
    write(path, 'old')
    error = OSError(errno.EROFS, os.strerror(errno.EROFS))

    def refuse(self, *args, **kwargs):
        raise OSError(*error.args, str(self))

    refused = pytest.raises(InputError, match=r'a\.txt cannot be written \(Read-only')
    with monkeypatch.context() as patch, refused, replace_when_done(path) as partial:
        partial.write_text('half')
        for name in ('write_text', 'unlink'):
            patch.setattr(Path, name, refuse)
        partial.write_text('whole')
    assert path.read_text() == 'old'


@pytest.mark.parametrize('when', ['before', 'after'])
def test_a_folder_that_vanishes(tmp_path, when):
    path = tmp_path / 'folder' / 'a.txt'
    refused = pytest.raises(
        InputError, match=r'a\.txt cannot be written \(No such file'
    )
    with refused, replace_when_done(path) as partial:
        if when == 'after':
            partial.write_text('new')
        shutil.rmtree(path.parent)
        if when == 'before':
            partial.write_text('new')
    assert os.listdir(tmp_path) == []
    write(path)
    assert path.read_text() == 'new'


def test_folders_that_were_made_for_nothing_go(tmp_path):
    with pytest.raises(KeyError), replace_when_done(tmp_path / 'a' / 'b' / 'c.txt'):
        raise KeyError
    assert os.listdir(tmp_path) == []
    with pytest.raises(KeyError), replace_when_done(tmp_path / 'a' / 'b' / 'c.txt'):
        (tmp_path / 'a' / 'd.txt').touch()
        raise KeyError
    assert os.listdir(tmp_path / 'a') == ['d.txt']


def test_two_writers_at_once(tmp_path):
    path = tmp_path / 'a.txt'
    with replace_when_done(path) as first:
        first.write_text('first')
        with replace_when_done(path) as second:
            second.write_text('second')
        assert path.read_text() == 'second'
    assert contents(tmp_path) == {'a.txt': 'first'}


def test_makes_a_folder_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'a' / 'data'
    for error in (KeyError(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
        expected = KeyError if isinstance(error, KeyError) else InputError
        with pytest.raises(expected) as raised, make_folder_when_done(path) as partial:
            (partial / 'b').mkdir()
            raise error
        assert os.listdir(tmp_path) == []
    assert str(raised.value) == (
        f'{path} cannot be written (No space left on device): make room there, or '
        'choose another folder.'
    )
    with make_folder_when_done(path) as partial:
        (partial / 'b').write_text('text')
        assert not path.exists()
    assert contents(path) == {'b': 'text'}
    assert os.listdir(path.parent) == ['data']
    with pytest.raises(InputError, match='data exists already: remove it or'):
        make_folder_when_done(path).__enter__()
    # Of another process that was faster.
    refused = pytest.raises(InputError, match='new cannot be written .Directory not em')
    with refused, make_folder_when_done(tmp_path / 'new'):
        shutil.copytree(path, tmp_path / 'new')
    assert contents(tmp_path / 'new') == {'b': 'text'}
    refused = pytest.raises(InputError, match='new2 cannot be written .No such file')
    with refused, make_folder_when_done(tmp_path / 'new2') as partial:
        partial.rmdir()
        (partial / 'b').write_text('text')
    (tmp_path / 'dangling').symlink_to('nowhere')
    for name, sentence in (
        ('dangling', 'dangling exists already'),
        ('a/data/b/c', 'a/data/b cannot be a folder'),
    ):
        with pytest.raises(InputError, match=sentence):
            make_folder_when_done(tmp_path / name).__enter__()
    assert sorted(os.listdir(tmp_path)) == ['a', 'dangling', 'new']
