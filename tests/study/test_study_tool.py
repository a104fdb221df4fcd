"""The study's tool, as it is called."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT


def study(*arguments):
    command = [sys.executable, '-W', 'ignore', 'tools/analysis_tools/study.py']
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT), COLUMNS='200'),
        capture_output=True,
        text=True,
    )


def test_quick_study(tiny_config, tmp_path):
    arguments = ('--config', tiny_config, '--out', tmp_path, '--quick', '--epochs', '1')
    done = study(*arguments, '--seeds', '0', '--jobs', '2')
    assert done.returncode == 0, done.stderr
    assert '[5/5]' in done.stderr
    assert 'images/s over all' in done.stderr
    for name in ('none', 's4', 's4-released', 'shufflenetv2', 'sfr-shufflenetv2'):
        assert (tmp_path / name / 'seed0' / 'epoch_1.pth').exists()
        assert f'│ {name} ' in done.stdout
    for name in ('study.md', 'study.json', 'study.png'):
        assert (tmp_path / name).exists()
    # What another option would train is missing.
    later = study(*arguments, '--seeds', '0', '1', '--report-only')
    assert later.returncode == 0, later.stderr
    assert 'seed 1 missing' in later.stdout
    refused = study(*arguments, '--entries', 'no-such')
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(
        'error: There is no entry no-such'
    )


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
    assert run('analysis_tools/study.py', *study, *arguments) == message
    assert not (tmp_path / 'out').exists()
