"""Where the kernels come from, and what becomes of it if they cannot come."""

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
from mmcdnv2.ops.build import SOURCES, BuildError, build, kept_path, library_path

# Writes what it is asked for, and down that it ran.
COMPILER = """#!/bin/sh
echo run >> "$0.log"
while [ "$1" != -o ]; do shift; done
echo "$0 made this" > "$2"
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache and no compiler but those that a test brings."""
    folder = tmp_path / 'cache'
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
    monkeypatch.setenv('CXX', 'no-such-compiler')
    monkeypatch.delenv(library.VARIABLE, raising=False)
    return folder


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """A compiler that takes no time; return what it does."""
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
    assert path == library_path()
    assert b'made this' in path.read_bytes()
    assert os.listdir(path.parent) == [path.name]
    log.unlink()
    assert build() == path
    assert not log.exists()


def test_a_library_is_of_all_sources(tmp_path, monkeypatch):
    copies = tmp_path / 'csrc'
    shutil.copytree(SOURCES, copies)
    monkeypatch.setattr(build_module, 'SOURCES', copies)
    for folder in ('torch', 'onnxruntime'):
        paths = [kept_path('library', folder)]
        sources = [*copies.glob('core/*'), *copies.glob(f'{folder}/*')]
        for source in sources:
            with source.open('a') as file:
                file.write('// changed\n')
            paths.append(kept_path('library', folder))
        assert len(set(paths)) == len(sources) + 1 > 10


def test_the_operators_for_onnxruntime_are_kept_for_any_pytorch(compiler, monkeypatch):
    log = compiler(COMPILER)
    path = onnxruntime_library.library_path()
    assert b'made this' in path.read_bytes()
    assert os.listdir(path.parent) == [path.name]
    other = library_path()
    log.unlink()
    monkeypatch.setattr('torch.__version__', '9.9')
    assert onnxruntime_library.library_path() == path
    assert library_path() != other
    assert not log.exists()


def test_the_compiling_needs_only_the_standard_library(compiler, tmp_path):
    # As the runtime package's build, which has neither PyTorch nor this package.
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
def test_rebuilds_what_is_damaged(compiler, damage):
    compiler(COMPILER)
    path = build()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert build() == path
    assert path.read_bytes() == whole


def test_a_whole_library_needs_neither_compiler_nor_folder(compiler, monkeypatch):
    compiler(COMPILER)
    path = build()
    monkeypatch.setenv('CXX', '"')
    path.parent.chmod(0o555)
    try:
        assert build() == path
    finally:
        path.parent.chmod(0o755)


def test_builds_at_the_same_time_do_not_meet(compiler):
    compiler(COMPILER)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: build(), range(16)))
    compiler('#!/bin/sh\nexit 1\n')
    assert set(paths) == {build()}
    assert os.listdir(paths[0].parent) == [paths[0].name]


def test_a_damaged_library_is_not_loaded(cache):
    # The loader maps it and dies of what is missing.
    path = library_path()
    path.parent.mkdir(parents=True)
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
        (dict(XDG_CACHE_HOME='/dev/null', CXX='true'), 'cannot be built in /dev/null'),
    ],
)
def test_falls_back_and_says_why(monkeypatch, variables, sentence):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(
        UserWarning, match=f'(?s)native kernels cannot.*{sentence}'
    ) as all:
        assert library._try_to_load()
    assert len(all) == 1


def test_falls_back_without_a_home(monkeypatch):
    monkeypatch.delenv('XDG_CACHE_HOME')

    def home():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(Path, 'home', home)
    with pytest.warns(UserWarning, match='there is no home .*set XDG_CACHE_HOME'):
        assert library._try_to_load()


def test_a_compiler_may_speak_another_encoding(compiler):
    says = "#!/bin/sh\nprintf 'f\\374r nichts\\n'\n"
    compiler(f'{says}exit 1\n')
    with pytest.raises(BuildError, match='(?s)failed.*f\ufffdr nichts'):
        build()
    compiler(says + COMPILER)
    assert b'made this' in build().read_bytes()
