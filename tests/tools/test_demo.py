"""The demo's steps, which are done once, and again if what they left is gone."""

import json
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from types import SimpleNamespace

import pytest
from conftest import ROOT

from mmcdnv2.errors import InputError


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The tool as a module that works in an empty folder."""
    spec = spec_from_file_location('demo', ROOT / 'tools' / 'demo.py')
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.Steps, '_code', staticmethod(lambda: 'code'))
    return module


def step(folder):
    folder.mkdir()
    (folder / 'a.pth').write_text('weights')
    return dict(checkpoint=str(folder / 'a.pth'), accuracy=1.5)


def never(folder):
    raise AssertionError('It was done before.')


def test_steps_are_done_once(demo, monkeypatch):
    first = demo.Steps().run('train', step)
    assert demo.Steps().run('train', never) == first
    # What the user removed is made again.
    (demo.WORK_DIR / 'train' / 'a.pth').unlink()
    assert demo.Steps().run('train', step)['accuracy'] == 1.5
    assert (demo.WORK_DIR / 'train' / 'a.pth').exists()
    monkeypatch.setattr(demo.Steps, '_code', staticmethod(lambda: 'other code'))
    assert demo.Steps().done == {}


@pytest.mark.parametrize(
    'content', ['', '{"code": "code", "ste', '[]', '{}', '{"code": "code", "steps": 1}']
)
def test_a_record_that_cannot_be_read(demo, content):
    demo.WORK_DIR.mkdir(parents=True)
    (demo.WORK_DIR / 'steps.json').write_text(content)
    assert demo.Steps().done == {}
    demo.Steps().run('train', step)
    demo.Steps().run('train', never)


def test_a_step_that_fails_is_done_again(demo, small_files, monkeypatch, capsys):
    steps = demo.Steps()
    steps.run('data', step)
    record = (demo.WORK_DIR / 'steps.json').read_text()

    def fails(folder):
        folder.mkdir()
        (folder / 'half').write_text('half')
        demo.call('train.py')

    status = SimpleNamespace(returncode=-9)
    monkeypatch.setattr(subprocess, 'run', lambda command: status)
    with pytest.raises(SystemExit, match=r'The demo stopped: .*train\.py failed\.'):
        steps.run('train', fails)
    refused = pytest.raises(
        InputError, match=r'steps\.json cannot be written .File too'
    )
    with small_files(50), refused:
        steps.run('train', step)
    assert (demo.WORK_DIR / 'steps.json').read_text() == record
    assert sorted(path.name for path in demo.WORK_DIR.iterdir()) == [
        'data',
        'steps.json',
        'train',
    ]
    again = demo.Steps()
    again.run('data', never)
    again.run('train', step)
    assert list(json.loads((demo.WORK_DIR / 'steps.json').read_text())['steps']) == [
        'data',
        'train',
    ]
    assert [path.name for path in (demo.WORK_DIR / 'train').iterdir()] == ['a.pth']


def test_a_folder_that_cannot_be(demo, tmp_path, monkeypatch):
    (tmp_path / 'work_dirs').write_text('a file')
    monkeypatch.setattr('sys.argv', ['demo.py'])
    with pytest.raises(SystemExit) as raised:
        demo.main()
    assert str(raised.value).startswith('error: work_dirs/demo cannot be a folder: ')
    assert (tmp_path / 'work_dirs').read_text() == 'a file'
