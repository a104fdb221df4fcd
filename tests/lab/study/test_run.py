"""Runs of the study: side by side, resumed, repeated, failing, killed."""

import json
import multiprocessing
import os
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from mmengine.config import Config

from lab.study import report_study, run_study
from lab.study.plan import plan_study
from lab.study.run import _collect_result, locked, read_results, train_runs
from mmcdnv2.builder import build_model
from mmcdnv2.checkpoint import load_checkpoint, load_weights
from mmcdnv2.errors import InputError
from mmcdnv2.layers import sparse_layers

# Seconds after which a process must have done what takes it an instant.
HANG = 60


@pytest.fixture
def train_with(monkeypatch, tmp_path):
    """Replace tools/train.py by a script."""

    def replace_script(code):
        script = tmp_path / 'train.py'
        script.write_text(f'import os, pathlib, signal, sys, time\n{code}\n')
        monkeypatch.setattr('lab.study.run.TRAIN', script)

    return replace_script


def wait_for(condition):
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(process):
    """Return whether a process runs; one that ended may not be reaped yet."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_study_trains_every_run(trained):
    settings, lines = trained
    runs = plan_study(settings)
    results = read_results(runs)
    assert list(results) == ['none, seed 0', 's4, seed 0']
    assert lines[0] == '2 runs, 2 to train, 2 at once'
    for line, count in zip(sorted(lines[1:]), (1, 2)):
        assert line.startswith(f'[{count}/2] ')
    for name, result in results.items():
        assert any(f'] {name}: error {result.error:.2f} %, ' in line for line in lines)
        assert 0 <= result.error <= 100
        assert not result.resumed
        assert result.images_per_second == pytest.approx(60 / result.seconds)
    s4 = runs[1]
    assert results[s4.name].kept_fraction == 0.25
    # Two epochs of two iterations.
    hub = load_checkpoint(s4.checkpoint)['message_hub']['log_scalars']
    losses = hub['train/loss'].data[0]
    assert len(losses) == 4
    assert results[s4.name].loss == pytest.approx(losses[2:].mean())

    cfg = Config.fromfile(s4.config_file)
    assert cfg.randomness.seed == 0
    model = build_model(cfg)
    load_weights(model, load_checkpoint(s4.checkpoint)['state_dict'], s4.checkpoint)
    assert all(layer.is_finished for layer in sparse_layers(model).values())
    report = json.loads((settings.out / 'study.json').read_text())
    assert [row['missing'] for row in report['rows']] == [[], []]
    assert (settings.out / 'study.png').exists()


def test_a_finished_run_is_not_repeated(moved, train_with):
    train_with('sys.exit("it was started")')
    lines = []
    report = run_study(moved, 1, lines.append)
    assert lines == ['2 runs, 0 to train, 1 at once']
    assert [row.missing for row in report.rows] == [(), ()]


def test_an_interrupted_run_is_resumed(moved):
    before = read_results(plan_study(moved))
    # It was killed during the test, and the study was moved: the pointer to the last
    # checkpoint names one of the other study.
    folder = moved.out / 's4' / 'seed0'
    (folder / 'result.json').unlink()
    lines = []
    run_study(moved, 1, lines.append)
    assert lines[0] == '2 runs, 1 to train, 1 at once'
    after = read_results(plan_study(moved))
    assert after['none, seed 0'] == before['none, seed 0']
    assert after['s4, seed 0'].resumed
    assert after['s4, seed 0'].loss is not None
    log = (folder / 'log.txt').read_text()
    assert f'{folder / "epoch_1.pth"}' in log
    # The whole run's time.
    times = load_checkpoint(folder / 'epoch_2.pth')['message_hub']['log_scalars']
    assert len(times['train/time'].data[0]) == 4


def test_a_changed_config_is_a_new_run(moved, train_with):
    changed = replace(moved, options={'optim_wrapper.optimizer.lr': 0.01})
    assert read_results(plan_study(changed)) == {}
    assert report_study(changed).rows[0].missing == (0,)
    assert (moved.out / 's4' / 'seed0' / 'result.json').exists()
    train_with('sys.exit(" ".join(sys.argv[1:]))')
    lines = []
    report = run_study(changed, 1, lines.append)
    assert 's4, seed 0: its config has changed, so it is trained again' in lines
    folder = moved.out / 's4' / 'seed0'
    assert [path.name for path in folder.iterdir()] == ['log.txt']
    # Nothing of the old run is resumed.
    assert report.failures['s4, seed 0'] == (
        f'{folder}.py --work-dir {folder} --skip-data-check'
    )
    assert 'lr=0.01' in (moved.out / 's4' / 'seed0.py').read_text()


def test_a_loss_of_nan_has_diverged(moved):
    run = plan_study(moved)[1]
    checkpoint = torch.load(run.checkpoint, weights_only=False)
    checkpoint['message_hub']['log_scalars']['train/loss'].update(float('nan'))
    torch.save(checkpoint, run.checkpoint)
    result = _collect_result(run, False)
    assert (result.loss, result.diverged) == (None, True)
    assert result.error is not None
    assert report_study(moved).rows[1].diverged == (0,)


def test_a_failing_run_stops_no_other(settings, train_with):
    train_with('print("first\\n"); print("second", flush=True); sys.exit("the end")')
    lines = []
    report = run_study(settings('none', 's4', 's1'), 1, lines.append)
    assert report.failures == {
        f'{name}, seed 0': 'the end' for name in ('none', 's4', 's1')
    }
    assert [row.missing for row in report.rows] == [(0,)] * 3
    out = settings().out
    assert lines[1] == (
        f'[1/3] none, seed 0: failed, the end; the end of {out}/none/seed0/log.txt:\n'
        '    first\n    second\n    the end'
    )
    text = (out / 'study.md').read_text()
    assert '- none, seed 0: the end' in text
    assert 'seed 0 missing' in text


@pytest.mark.parametrize(
    ('code', 'reason'),
    [
        ('os.kill(os.getpid(), signal.SIGTERM)', 'ended by signal 15'),
        ('', 'There is no checkpoint '),
        ('sys.exit(1)', 'the log is empty'),
    ],
)
def test_a_run_that_says_nothing(settings, train_with, code, reason):
    train_with(code)
    report = run_study(settings('none'), 1, bool)
    assert report.failures['none, seed 0'].startswith(reason)


@pytest.mark.skipif(
    not hasattr(os, 'sched_getaffinity'), reason='this system cannot pin processes'
)
def test_each_run_has_one_core_and_one_thread(settings, train_with):
    train_with(
        'print(os.environ["OMP_NUM_THREADS"], *sorted(os.sched_getaffinity(0)))\n'
        'sys.exit(1)'
    )
    cores = sorted(os.sched_getaffinity(0))
    # More runs than cores share them.
    for jobs, expected in (
        (1, [cores[:1]]),
        (len(cores), [[core] for core in cores]),
        (len(cores) + 1, [cores] * (len(cores) + 1)),
    ):
        out = settings().out / str(jobs)
        report = run_study(settings('none', seeds=range(jobs), out=out), jobs, bool)
        threads, *found = zip(*(line.split() for line in report.failures.values()))
        assert set(threads) == {'1'}
        assert sorted([*map(int, each)] for each in zip(*found)) == expected


def test_two_studies_do_not_share_a_folder(settings, tmp_path):
    with locked(tmp_path / 'out'):
        with pytest.raises(InputError, match='Another study runs in .*out: wait'):
            run_study(settings('none'))
        # Reading disturbs nobody.
        assert report_study(settings('none')).rows[0].missing == (0,)
    with locked(tmp_path / 'out'):
        pass
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='file is no writable folder'):
        run_study(settings('none', out=tmp_path / 'file'))


def test_an_interrupted_study_leaves_no_process_but_a_report(settings, train_with):
    train_with(
        'pathlib.Path(sys.argv[1]).with_suffix(".pid").write_text(str(os.getpid()))\n'
        'os.kill(os.getppid(), signal.SIGINT)\n'
        'time.sleep(600)'
    )
    study = settings('none')
    with pytest.raises(KeyboardInterrupt):
        run_study(study, 1, bool)
    process = int((study.out / 'none' / 'seed0.pid').read_text())
    assert not is_alive(process)
    assert 'seed 0 missing' in (study.out / 'study.md').read_text()
    with locked(study.out):
        pass


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux ends the runs')
def test_a_killed_study_leaves_no_process(settings, train_with):
    train_with(
        'pathlib.Path(sys.argv[1]).with_suffix(".pid").write_text(str(os.getpid()))\n'
        'time.sleep(600)'
    )
    study = settings('none', 's4')
    runs = plan_study(study)
    study.out.mkdir()
    process = multiprocessing.get_context('fork').Process(
        target=train_runs, args=(runs, {}, {}, 2)
    )
    process.start()
    files = [run.folder.with_suffix('.pid') for run in runs]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files))
    children = [int(file.read_text()) for file in files]
    assert all(map(is_alive, children))
    process.kill()
    process.join()
    wait_for(lambda: not any(map(is_alive, children)))
