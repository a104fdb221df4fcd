"""Building and caching the kernels, and the fallback if that fails."""

import errno
import fcntl
import os
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import setuptools
from conftest import ROOT

from mmcdnv2.ops import build as build_module
from mmcdnv2.ops import library, onnxruntime_library
from mmcdnv2.ops.build import SOURCES, BuildError, build, cache_folders, kept_name

# A fake compiler that writes its output file and logs each run.
COMPILER = """#!/bin/sh
echo run >> "$0.log"
while [ "$1" != -o ]; do shift; done
echo "$0 made this" > "$2"
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Set up an empty cache and no compiler."""
    folder = tmp_path / 'cache'
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
    monkeypatch.setenv('TMPDIR', str(tmp_path / 'tmp'))
    monkeypatch.setenv('CXX', 'no-such-compiler')
    monkeypatch.delenv(library.VARIABLE, raising=False)
    return folder


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Install a script as compiler; return the path of its log."""
    script = tmp_path / 'compiler'

    def install(content):
        script.write_text(content)
        script.chmod(0o755)
        monkeypatch.setenv('CXX', str(script))
        return script.with_suffix('.log')

    return install


def test_builds_once(compiler):
    log = compiler(COMPILER)
    path = build()
    assert path.parents[1] == cache_folders()[0]
    assert b'made this' in path.read_bytes()
    assert os.listdir(path.parent) == [path.name]
    log.unlink()
    assert build() == path
    assert not log.exists()


def test_the_name_depends_on_all_sources(tmp_path, monkeypatch):
    copies = tmp_path / 'csrc'
    shutil.copytree(SOURCES, copies)
    monkeypatch.setattr(build_module, 'SOURCES', copies)
    for folder in ('torch', 'onnxruntime'):
        paths = [kept_name('library', folder)]
        sources = [*copies.glob('core/*'), *copies.glob(f'{folder}/*')]
        for source in sources:
            with source.open('a') as file:
                file.write('// changed\n')
            paths.append(kept_name('library', folder))
        assert len(set(paths)) == len(sources) + 1 > 10


def test_the_onnxruntime_library_does_not_depend_on_pytorch(compiler, monkeypatch):
    log = compiler(COMPILER)
    path = onnxruntime_library.library_path()
    assert b'made this' in path.read_bytes()
    assert os.listdir(path.parent) == [path.name]
    other = build()
    log.unlink()
    monkeypatch.setattr('torch.__version__', '9.9')
    assert onnxruntime_library.library_path() == path
    assert not log.exists()
    assert build() != other


def test_compiling_needs_only_the_standard_library(compiler, tmp_path):
    # The runtime package's build has neither PyTorch nor this package.
    compiler(COMPILER)
    program = f"""
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
spec = spec_from_file_location('compiler', {str(SOURCES.parent / 'compiler.py')!r})
module = module_from_spec(spec)
spec.loader.exec_module(module)
command = module.find_compiler()
module.build_onnxruntime_library(Path('library.so'), command, 'aarch64')
"""
    subprocess.run(
        [sys.executable, '-I', '-S', '-c', program], cwd=tmp_path, check=True
    )
    assert 'made this' in (tmp_path / 'library.so').read_text()


def test_sources_are_packaged(monkeypatch):
    calls = []
    monkeypatch.setattr(setuptools, 'setup', lambda **kwargs: calls.append(kwargs))
    runpy.run_path(str(ROOT / 'setup.py'), run_name='__main__')
    folder = SOURCES.parent
    packaged = {
        path
        for pattern in calls[0]['package_data']['mmcdnv2.ops']
        for path in folder.glob(pattern)
    }
    assert packaged == {path for path in SOURCES.rglob('*') if path.is_file()}


@pytest.mark.parametrize(
    'damage',
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: b'',
        lambda content: b'\0' * len(content),
        lambda content: content[:5] + b'\0' + content[6:],
    ],
    ids=['last byte', 'half', 'empty', 'zeros', 'one byte'],
)
def test_rebuilds_damaged_libraries(compiler, damage):
    compiler(COMPILER)
    path = build()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert build() == path
    assert path.read_bytes() == whole


def test_an_intact_library_needs_no_compiler(compiler, monkeypatch):
    compiler(COMPILER)
    path = build()
    monkeypatch.setenv('CXX', '"')
    path.parent.chmod(0o555)
    try:
        assert build() == path
    finally:
        path.parent.chmod(0o755)


def test_concurrent_builds(compiler):
    log = compiler(COMPILER)
    path = build()
    once = log.read_text()
    path.unlink()
    log.unlink()
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: build(), range(16)))
    # All others waited for the first.
    assert log.read_text() == once
    assert set(paths) == {path}
    assert os.listdir(path.parent) == [path.name]
    assert sorted(os.listdir(path.parents[1])) == ['.lock', path.parent.name]


def test_a_damaged_library_is_not_loaded(cache, compiler, monkeypatch):
    # Loading a truncated library kills the process.
    compiler(COMPILER)
    path = build()
    monkeypatch.setenv('CXX', 'no-such-compiler')
    reference = Path(sys.modules['torch'].__file__).parent / 'lib' / 'libc10.so'
    path.write_bytes(reference.read_bytes()[:8192])
    program = 'from mmcdnv2 import ops; print(ops.describe())'
    result = subprocess.run(
        [sys.executable, '-c', program],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        cwd=cache,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0
    assert 'PyTorch operators (there is no C++ compiler' in result.stdout
    assert result.stderr.count('native kernels cannot be used') == 1


@pytest.mark.parametrize(
    ('variables', 'sentence'),
    [
        (
            dict(CXX='c++ "-O2'),
            'CXX=c\\+\\+ "-O2 is not a command: No closing quotation',
        ),
        (dict(CXX="''"), 'there is no C\\+\\+ compiler'),
        (dict(CXX='/'), 'there is no C\\+\\+ compiler /'),
        (dict(CXX='', PATH=''), 'there is no C\\+\\+ compiler c\\+\\+'),
        (dict(CXX='true'), 'cannot be built in'),
        (dict(CXX='false'), 'false .* failed'),
        (
            dict(XDG_CACHE_HOME='/dev/null', TMPDIR='/dev/zero', CXX='true'),
            r'cannot be built in /dev/null/mmcdnv2/ops \(.*File exists.*\) or in '
            r'/dev/zero/mmcdnv2-\d+ \(',
        ),
    ],
)
def test_falls_back_with_a_warning(monkeypatch, variables, sentence):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(
        UserWarning, match=f'(?s)native kernels cannot.*{sentence}'
    ) as all:
        assert library._try_to_load()
    assert len(all) == 1


@pytest.mark.parametrize('home', [None, '', 'here'])
def test_missing_and_relative_home_folders(
    home, cache, compiler, tmp_path, monkeypatch
):
    compiler(COMPILER)
    # Someone else's library in the current folder.
    planted = plant(tmp_path / '.cache' / 'mmcdnv2' / 'ops')
    shutil.copytree(tmp_path / '.cache', tmp_path / 'here' / '.cache')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('XDG_CACHE_HOME')
    if home is None:
        monkeypatch.delenv('HOME')
    else:
        monkeypatch.setenv('HOME', home)

    def unknown(user):
        raise KeyError(user)

    # A user without a passwd entry, as in some containers.
    monkeypatch.setattr('pwd.getpwuid', unknown)
    *others, temporary = cache_folders()
    assert temporary == tmp_path / 'tmp' / f'mmcdnv2-{os.geteuid()}'
    assert others == ([Path('/.cache/mmcdnv2/ops')] if home == '' else [])
    monkeypatch.setattr(build_module, 'cache_folders', lambda: [temporary])
    assert build().parents[1] == temporary
    assert planted.read_bytes() == EVIL


EVIL = b'evil' + build_module._checksum(b'evil')


def plant(folder):
    """Write a library that is loaded if its folder is trusted."""
    library = folder / build_module._library_name()
    library.parent.mkdir(parents=True)
    folder.chmod(0o700)
    library.write_bytes(EVIL)
    return library


def test_a_folder_of_root_is_trusted(cache, monkeypatch):
    library = plant(cache / 'mmcdnv2' / 'ops')
    assert build() == library
    monkeypatch.setattr(os, 'geteuid', lambda: 12345)
    if library.stat().st_uid == 0:
        assert build() == library
    else:
        with pytest.raises(BuildError, match='ops belongs to another user; there is'):
            build()


@pytest.mark.parametrize('way', ['group', 'others', 'owner', 'link'])
def test_a_folder_of_others_is_not_used(way, cache, compiler, tmp_path, monkeypatch):
    folder = cache / 'mmcdnv2' / 'ops'
    library = plant(folder)
    assert build() == library
    if way == 'owner':
        real = Path.lstat

        def lstat(path):
            info = list(real(path))
            if path == folder:
                info[4] = os.geteuid() + 1
            return os.stat_result(info)

        monkeypatch.setattr(Path, 'lstat', lstat)
        reason = f'{folder} belongs to another user'
    elif way == 'link':
        folder.rename(tmp_path / 'target')
        folder.symlink_to(tmp_path / 'target')
        reason = f'{folder} is not a folder'
    else:
        folder.chmod(0o720 if way == 'group' else 0o702)
        reason = f'other users may write to {folder}'
    with pytest.warns(UserWarning, match='native kernels cannot') as warned:
        assert library_reason() == f'{reason}; there is no C++ compiler ' + (
            'no-such-compiler (set CXX or install c++)'
        )
    assert len(warned) == 1
    compiler(COMPILER)
    own = build()
    assert b'made this' in own.read_bytes()
    assert own.parents[2] == tmp_path / 'tmp'
    assert library.read_bytes() == EVIL
    assert build() == own


def library_reason():
    return library._try_to_load()


def test_folders_and_files_are_private(cache, compiler):
    compiler(COMPILER)
    before = os.umask(0)
    try:
        path = build()
    finally:
        os.umask(before)
    modes = [each.stat().st_mode & 0o777 for each in (path, *path.parents)][:5]
    assert modes == [0o600, *[0o700] * 4]
    assert path.parents[3] == cache


def test_removes_leftovers_of_killed_builds(cache, compiler, monkeypatch):
    compiler(COMPILER)
    path = build()
    left = path.parents[1] / '.build-killed'
    for locks in (False, True):
        path.unlink()
        left.mkdir(exist_ok=True)
        (left / 'kernels.o').write_text('half')
        with monkeypatch.context() as patch:
            if not locks:
                # The leftover may belong to a running build on another machine.
                error = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
                patch.setattr(fcntl, 'flock', raising(error))
            assert build() == path
        assert left.exists() != locks


def raising(error):
    def function(*args, **kwargs):
        raise error

    return function


def test_a_folder_that_is_removed_during_the_build(cache, compiler):
    compiler(f'#!/bin/sh\nrm -r {cache}\nexit 1\n')
    with pytest.raises(BuildError, match='failed'):
        build()
    assert not cache.exists()
    compiler(f'#!/bin/sh\nrm -r {cache} 2>/dev/null\nexit 0\n')
    with pytest.raises(BuildError, match='cannot be built in .* or in .*No such file'):
        build()
    compiler(COMPILER)
    assert b'made this' in build().read_bytes()


def test_a_full_disk(cache, compiler, tmp_path, monkeypatch):
    compiler(COMPILER)
    with monkeypatch.context() as patch:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(Path, 'write_bytes', raising(error))
        with pytest.raises(BuildError) as raised:
            build()
    first, second = cache_folders()
    assert str(raised.value) == (
        f'they cannot be built in {first} ({error}) or in {second} ({error})'
    )
    files = [path.name for path in tmp_path.rglob('*') if path.is_file()]
    assert sorted(files) == ['.lock', '.lock', 'compiler', 'compiler.log']
    assert build().parents[1] == first


def test_compiler_output_in_another_encoding(compiler):
    says = "#!/bin/sh\nprintf 'f\\374r nichts\\n'\n"
    compiler(f'{says}exit 1\n')
    with pytest.raises(BuildError, match='(?s)failed.*f\ufffdr nichts'):
        build()
    compiler(says + COMPILER)
    assert b'made this' in build().read_bytes()
