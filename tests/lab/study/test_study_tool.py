"""The study's tool, as it is called."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

TOOL = 'analysis_tools/study.py'


def test_quick_study(tiny_config, tmp_path, run, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    arguments = ('--config', tiny_config, '--out', tmp_path, '--quick', '--epochs', '1')
    # As a user calls it; for the others the imports would take most of the time.
    command = [sys.executable, '-W', 'ignore', f'tools/{TOOL}']
    done = subprocess.run(
        [*command, *map(str, arguments), '--seeds', '0', '--jobs', '2'],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '[5/5]' in done.stderr
    assert 'images/s over all' in done.stderr
    for name in ('none', 's4', 's4-released', 'shufflenetv2', 'sfr-shufflenetv2'):
        assert (tmp_path / name / 'seed0' / 'epoch_1.pth').exists()
        assert f'│ {name} ' in done.stdout
    for name in ('study.md', 'study.json', 'study.png'):
        assert (tmp_path / name).exists()
    # What another option would train is missing.
    capsys.readouterr()
    assert run(TOOL, *arguments, '--seeds', '0', '1', '--report-only') == 0
    assert 'seed 1 missing' in capsys.readouterr().out
    refused = run(TOOL, *arguments, '--entries', 'no-such')
    assert refused.startswith('error: There is no entry no-such')


def test_an_interrupted_study_says_how_to_go_on(
    tiny_config, tmp_path, run, capsys, monkeypatch
):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr('lab.study.run_study', interrupt)
    assert run(TOOL, '--config', tiny_config, '--out', tmp_path) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f'Interrupted: {tmp_path} keeps what is trained')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--jobs', '0'], 'error: At least one training must run at once.'),
        (['--jobs', '-1'], 'error: At least one training must run at once.'),
        (['--epochs', '0'], 'error: A training needs at least one epoch.'),
    ],
)
def test_numbers_below_one_are_refused(run, tiny_config, tmp_path, arguments, message):
    study = ['--config', tiny_config, '--out', tmp_path / 'out', '--entries', 'none']
    assert run(TOOL, *study, *arguments) == message
    assert not (tmp_path / 'out').exists()
