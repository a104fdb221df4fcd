"""The study's tool, as it is called."""

import pytest

from lab.study import QUICK, Report

TOOL = 'analysis_tools/study.py'


def test_report_of_a_trained_study(moved, run, capsys):
    arguments = [
        '--config',
        moved.config,
        '--out',
        moved.out,
        '--entries',
        'none',
        's4',
    ]
    # What another seed would train is missing.
    assert run(TOOL, *arguments, '--seeds', '0', '1', '--report-only') == 0
    printed = capsys.readouterr().out
    assert 'Study on tiny, 2 epochs, seeds 0, 1' in printed
    assert printed.count('seed 1 missing') == 2
    # Nothing is left to train.
    assert run(TOOL, *arguments, '--seeds', '0') == 0
    printed, log = capsys.readouterr()
    assert '2 runs, 0 to train' in log
    assert '│ s4    │ SFR, base' in printed
    assert f'Written to {moved.out}: study.md, study.json, study.png' in printed


def test_quick_is_a_default(monkeypatch, tiny_config, run, capsys):
    seen = []

    def run_study(settings, jobs, log):
        seen.append(settings)
        return Report('tiny', 2, (0, 1), (), (), {'none, seed 0': 'no'}, ())

    monkeypatch.setattr('lab.study.run_study', run_study)
    error = run(TOOL, '--config', tiny_config, '--quick')
    assert error.startswith('error: 1 training runs failed; the same command runs only')
    assert error.endswith('The first is none, seed 0: no')
    (settings,) = seen
    assert (settings.entries, settings.seeds, settings.epochs) == (QUICK, (0, 1), 2)
    assert settings.out.parts[-3:] == ('work_dirs', 'study', 'tiny_quick')
    run(TOOL, '--config', tiny_config, '--quick', '--epochs', '1', '--seeds', '3')
    assert (seen[1].seeds, seen[1].epochs) == ((3,), 1)


def test_an_interrupted_study_says_how_to_continue(
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
        (['--jobs', '0'], 'error: At least one run must be trained at once.'),
        (['--epochs', '0'], 'error: A training run needs at least one epoch.'),
        (['--entries', 'no'], 'error: There is no entry no in the study: choose from'),
    ],
)
def test_bad_options_are_rejected(run, tiny_config, tmp_path, arguments, message):
    out = tmp_path / 'out'
    error = run(TOOL, '--config', tiny_config, '--out', out, *arguments)
    assert error.startswith(message)
    assert not out.exists()
