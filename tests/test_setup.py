"""Which Python .dev/setup_env.sh takes, and what it does to mmcv's sources."""

import importlib.util
import os
import re
import subprocess

import pytest
from conftest import ROOT

SCRIPT = ROOT / '.dev' / 'join_mmcv_sources.py'
STACKS = ROOT / 'requirements' / 'stacks'
# It answers what the script asks, makes "environments", and cannot build a wheel
# unless `cases` say how.
FAKE_PYTHON = """#!/bin/sh
echo "$*" >>{calls}
case "$*" in
{cases}
*version_info*) echo {version} ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
-) echo torch-9-cpu ;;
"-m pip download"* | "-m pip wheel"*) exit 1 ;;
esac
"""


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


class SetUp:
    """Runs the script in a folder where every Python is a fake."""

    def __init__(self, folder):
        self.folder = folder
        self.venv = folder / 'venv'
        self.calls = folder / 'calls'
        self.bin = folder / 'bin'
        self.bin.mkdir()
        for name in ['python3'] + [f'python3.{minor}' for minor in range(20)]:
            self.write(name, '#!/bin/sh\nexit 127\n')

    def write(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def add_python(self, name, version, cases=''):
        text = FAKE_PYTHON.format(version=version, calls=self.calls, cases=cases)
        self.write(name, text)

    def add_wheel(self, name):
        wheels = self.folder / 'mmcdnv2' / 'wheels' / 'torch-9-cpu'
        wheels.mkdir(parents=True, exist_ok=True)
        (wheels / name).touch()

    def run(self, stack='default', **env):
        env = {
            'PATH': f'{self.bin}:{os.defpath}',
            'XDG_CACHE_HOME': str(self.folder),
            **env,
        }
        args = [ROOT / '.dev' / 'setup_env.sh', STACKS / f'{stack}.txt', self.venv]
        return subprocess.run(args, env=env, capture_output=True, text=True)

    def version(self):
        """Version of the environment's Python."""
        python = (self.venv / 'bin' / 'python').read_text()
        return re.search(r'echo (3\.\d+)', python)[1]


@pytest.fixture
def setup(tmp_path):
    return SetUp(tmp_path)


@pytest.mark.parametrize(
    'stack, pythons, taken',
    [
        ('default', {'python3.10': '3.10', 'python3.11': '3.11'}, '3.11'),
        ('upstream', {'python3.8': '3.8', 'python3.12': '3.12'}, '3.8'),
        ('upstream', {'python3.12': '3.12', 'python3': '3.9'}, '3.9'),
    ],
)
def test_a_python_that_runs_the_stack_is_taken(setup, stack, pythons, taken):
    for name, version in pythons.items():
        setup.add_python(name, version)
    setup.run(stack)
    assert setup.version() == taken


@pytest.mark.parametrize(
    'stack, version', [('default', '3.9'), ('upstream', '3.12'), ('upstream', '3.1')]
)
def test_a_python_that_does_not_run_the_stack_is_refused(setup, stack, version):
    setup.add_python('python3.11', '3.11')
    setup.add_python('chosen', version)
    refused = setup.run(stack, PYTHON='chosen')
    assert refused.returncode == 1
    assert re.fullmatch(
        rf'\S*{stack}\.txt needs Python 3\.11, .*, but found: {re.escape(version)}\. '
        r'Install one of them or set PYTHON=/path/to/python3\.11\.\n',
        refused.stderr,
    )
    assert not setup.venv.exists()


def test_an_environment_keeps_its_python_until_another_is_chosen(setup):
    setup.add_python('python3.11', '3.11')
    setup.add_python('python3.12', '3.12')
    setup.add_wheel('onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl')
    setup.add_wheel('onedl_mmcv-2.3.6-cp312-cp312-linux_x86_64.whl')
    for env, version in [
        ({'PYTHON': 'python3.12'}, '3.12'),
        ({}, '3.12'),
        ({'PYTHON': 'python3.11'}, '3.11'),
    ]:
        ready = setup.run(**env)
        assert ready.returncode == 0, ready.stderr
        assert setup.version() == version
    (setup.venv / 'setup.stamp').unlink()
    setup.run(PYTHON='python3.12')
    (setup.venv / 'setup.stamp').unlink()
    setup.run()
    assert setup.version() == '3.12'


def test_a_wheel_of_mmcv_serves_its_own_python_only(setup):
    wheel = 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl'
    setup.add_wheel(wheel)
    setup.add_python('python3.11', '3.11')
    setup.add_python('python3.12', '3.12')
    assert setup.run(PYTHON='python3.11').returncode == 0
    assert wheel in setup.calls.read_text()
    setup.calls.unlink()
    assert setup.run(PYTHON='python3.12').returncode != 0
    calls = setup.calls.read_text()
    assert wheel not in calls
    assert 'pip wheel' in calls


BUILDS_MMCV = """
"-m pip download"*) ;;
"-m pip wheel"*)
    while [ "$1" != -w ]; do shift; done
    touch "$2/onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl" ;;
"""
LACKS_A_PACKAGE = """
*"pip install"*onedl-mim*"-r requirements/demo.txt"*)
    echo "No matching distribution found for onedl-mim"; exit 3 ;;
"""


def test_packages_are_installed_beside_the_build_of_mmcv(setup):
    setup.add_python('python3.11', '3.11', BUILDS_MMCV)
    ready = setup.run()
    assert ready.returncode == 0, ready.stderr
    assert (setup.venv / 'setup.stamp').exists()
    installs = [c for c in setup.calls.read_text().splitlines() if 'demo.txt' in c]
    beside, final = installs
    assert 'onedl-mim' in beside and 'mmcv' not in beside
    assert 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl' in final
    # Only the wheel is left of the build.
    [wheels] = (setup.folder / 'mmcdnv2' / 'wheels').iterdir()
    assert [path.suffix for path in wheels.iterdir()] == ['.whl']


def test_a_package_that_cannot_be_installed_beside_it(setup):
    setup.add_python('python3.11', '3.11', BUILDS_MMCV + LACKS_A_PACKAGE)
    failed = setup.run()
    assert failed.returncode == 3
    assert failed.stderr.splitlines()[1:] == [
        'set-up failed in step "wait for the packages that are installed beside that" '
        '(exit status 3).',
        f'The last lines of {setup.venv}/packages.log:',
        'No matching distribution found for onedl-mim',
    ]
    assert not (setup.venv / 'setup.stamp').exists()
