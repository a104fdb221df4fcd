"""A library that cannot run here is refused before it is loaded."""

import platform
import sys
from pathlib import Path

import onnxruntime
import pytest
from mmcdnv2_runtime import (
    Classifier,
    ModelError,
    library_path,
    session,
    session_options,
)


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Where the package looks for its library."""
    monkeypatch.setattr(session, '__file__', str(tmp_path / 'session.py'))
    return tmp_path / 'libmmcdnv2_onnxruntime.so'


def header(number):
    """The head of a file without sections."""
    return b'\x7fELF\x02\x01\x01' + bytes(9) + bytes([3, 0, number, 0]) + bytes(44)


def test_a_library_of_another_processor(library):
    other, number = (
        ('aarch64', 183) if platform.machine() == 'x86_64' else ('x86_64', 62)
    )
    library.write_bytes(header(number))
    for use in (library_path, session_options):
        with pytest.raises(
            ModelError, match=f'is built for Linux on {other}, but this'
        ):
            use()
    library.write_bytes(header(243))
    with pytest.raises(ModelError, match='on processor 243 of ELF'):
        library_path()


def test_a_damaged_library(library):
    with pytest.raises(ModelError, match='cannot be read .No such file.*wheel'):
        library_path()
    # A real one, for the wrong purpose, and parts of it.
    whole = Path(sys.modules['PIL._imaging'].__file__).read_bytes()
    for content in (
        b'',
        whole[:63],
        whole[:64],
        whole[: len(whole) // 2],
        b'\x00' * 99,
    ):
        library.write_bytes(content)
        with pytest.raises(ModelError, match='is damaged; install'):
            session_options()
    library.write_bytes(whole)
    with pytest.raises(ModelError, match='so cannot be loaded: ') as error:
        session_options()
    assert str(error.value).count('\n') == 0


def test_files_of_standard_operators_need_none(library, make_classifier):
    Classifier(make_classifier())
    with pytest.raises(ModelError, match='cannot be read'):
        Classifier(make_classifier(operators='native'))


def test_old_onnxruntime(monkeypatch, make_classifier):
    monkeypatch.setattr(onnxruntime, '__version__', '1.9.0')
    with pytest.raises(ModelError, match='onnxruntime 1.9.0 is too old; install 1.17'):
        Classifier(make_classifier())
