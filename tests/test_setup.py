"""What .dev/setup_env.sh does to mmcv's sources before it compiles them."""

import importlib.util
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / '.dev' / 'join_mmcv_sources.py'


@pytest.fixture
def join():
    spec = importlib.util.spec_from_file_location('join_mmcv_sources', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(join, tmp_path):
    names = ['pybind', 'nms', 'roi_align', 'contour_expand', 'cpu/new']
    names += [f'cpu/{name}' for unit in join.CPU_UNITS for name in unit]
    (tmp_path / 'cpu').mkdir()
    for name in names:
        (tmp_path / f'{name}.cpp').write_text(name)
    return tmp_path


def sources(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob('*.cpp')}


def test_each_source_is_compiled_once(join, folder):
    before = sources(folder)
    join.join_sources(folder)
    included = []
    for unit in sorted(folder.glob('*.cpp')):
        included += re.findall(r'#include "(.*)"', unit.read_text())
    assert included[0] == 'pybind.inc'
    assert len(included) == len(set(included))
    for name in included:
        assert (folder / name).read_text() == name[: -len('.inc')]
    joined = {name.replace('.inc', '.cpp') for name in included}
    assert joined | {'cpu/new.cpp'} == before
    assert (folder / 'cpu' / 'new.cpp').is_file()


@pytest.mark.parametrize('name', ['pybind', 'contour_expand', 'cpu/psamask'])
def test_nothing_is_changed_if_a_source_is_missing(join, folder, name):
    (folder / f'{name}.cpp').unlink()
    before = sources(folder)
    with pytest.raises(SystemExit, match=rf'{name}\.cpp'):
        join.join_sources(folder)
    assert sources(folder) == before
