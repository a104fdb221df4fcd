"""Trainings of the study: side by side, resumed, repeated, failing."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import HANG, ROOT
from mmengine.config import Config

from lab.study import report_study, run_study
from lab.study.plan import plan_study
from lab.study.results import read_result
from lab.study.run import locked
from mmcdnv2.builder import build_model
from mmcdnv2.checkpoint import load_checkpoint, load_weights
from mmcdnv2.errors import InputError
from mmcdnv2.layers import sparse_layers


def results(trainings):
    """The results of a study's trainings by their names."""
    return {t.name: read_result(t.folder, t.fingerprint) for t in trainings}


def test_a_study_is_trained_once_and_again_where_it_changed(settings, tmp_path):
    shown = []
    tiny = settings('none', 's4', seeds=(0, 1))
    trainings = plan_study(tiny)
    report = run_study(tiny, 2, shown.append)
    assert [row.missing for row in report.rows] == [(), ()]
    assert shown[0].running == ('none, seed 0', 's4, seed 0')
    news = [status.news.partition(':')[0] for status in shown if status.news]
    first = results(trainings)
    assert sorted(first) == sorted(news)
    assert all(r.seconds > 0 and r.images_per_second > 0 for r in first.values())
    assert first['s4, seed 0'].kept_fraction == 0.25
    assert first['s4, seed 0'].loss != first['s4, seed 1'].loss

    folder = tmp_path / 'out' / 's4' / 'seed1'
    assert [path.name for path in folder.glob('*.pth')] == ['epoch_2.pth']
    model = build_model(Config.fromfile(folder / 'config.py'))
    checkpoint = load_checkpoint(folder / 'epoch_2.pth')
    load_weights(model, checkpoint['state_dict'], folder)
    assert all(layer.is_finished for layer in sparse_layers(model).values())

    # What is finished is read, and what is not is trained.
    (folder / 'result.json').unlink()
    shutil.rmtree(folder.with_name('seed0'))
    shown.clear()
    run_study(tiny, 1, shown.append)
    news = [status.news.partition(':')[0] for status in shown if status.news]
    assert news == ['s4, seed 0', 's4, seed 1']
    second = results(trainings)
    # The same seed gives the same result.
    assert not second['s4, seed 0'].resumed
    assert second['s4, seed 0'].loss == first['s4, seed 0'].loss
    again = second['s4, seed 1']
    # The last epoch's checkpoint was there: only the test was to be done.
    assert again.resumed
    assert again.error == first['s4, seed 1'].error

    # A changed recipe is another training, and none of the old one is resumed.
    other = settings('none', 's4', options={'optim_wrapper.optimizer.lr': 0.01})
    others = plan_study(other)
    assert results(others) == {'none, seed 0': None, 's4, seed 0': None}
    run_study(other, 2)
    changed = results(others)
    assert not any(r.resumed for r in changed.values())
    assert changed['s4, seed 0'].loss != first['s4, seed 0'].loss
    assert results(trainings)['s4, seed 1'] == again


def test_a_failing_training_stops_no_other(settings):
    tiny = settings('none', 's4')
    trainings = plan_study(tiny)
    # A folder stands where the training's checkpoint would be.
    folder = trainings[0].folder
    (folder / 'epoch_1.pth').mkdir(parents=True)
    marker = json.dumps(dict(fingerprint=trainings[0].fingerprint))
    (folder / 'training.json').write_text(marker)
    report = run_study(tiny, 1)
    assert list(report.failures) == ['none, seed 0']
    assert 'epoch_1.pth' in report.failures['none, seed 0']
    assert '\n' not in report.failures['none, seed 0']
    assert [row.missing for row in report.rows] == [(0,), ()]
    assert 'seed 0 missing' in (tiny.out / 'study.md').read_text()


def test_two_studies_do_not_share_a_folder(settings, tmp_path):
    out = tmp_path / 'out'
    with locked(out):
        with pytest.raises(InputError, match=f'Process {os.getpid()} runs a study'):
            run_study(settings('none'))
        # Reading disturbs nobody.
        assert report_study(settings('none')).rows[0].missing == (0,)
    assert not (out / 'running.pid').exists()
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    (out / 'running.pid').write_text(str(dead.pid))
    with locked(out):
        assert (out / 'running.pid').read_text() == str(os.getpid())
        # By a user who took it for one left behind.
        (out / 'running.pid').unlink()


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(13, 'Permission denied', str(path))

    # Root may write anywhere.
    monkeypatch.setattr('lab.study.run.open', refuse, raising=False)
    message = 'running.pid cannot be written: .*denied'
    with pytest.raises(InputError, match=message), locked(tmp_path):
        pass


def test_an_interrupted_study_leaves_no_process_but_a_report(settings):
    # So many epochs that it cannot be finished.
    endless = settings('none', 's4', epochs=10000)
    pointers = [t.folder / 'last_checkpoint' for t in plan_study(endless)]
    end = time.monotonic() + HANG

    def interrupt(status):
        assert not status.failed
        assert time.monotonic() < end
        if all(pointer.exists() for pointer in pointers):
            assert len(multiprocessing.active_children()) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(endless, 2, interrupt)
    left = multiprocessing.active_children()
    for process in left:
        # The tests would wait for it in the end.
        process.kill()
    assert left == []
    assert (endless.out / 'study.md').read_text().count('seed 0 missing') == 2
    assert not (endless.out / 'running.pid').exists()


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='needs signals')
def test_a_killed_study_leaves_no_process(tiny_config, tmp_path):
    # So many epochs that it cannot be finished.
    command = [sys.executable, '-W', 'ignore', 'tools/analysis_tools/study.py']
    command += ['--config', tiny_config, '--out', tmp_path, '--entries', 'none', 's4']
    command += ['--epochs', '10000', '--jobs', '2', '--seeds', '0']
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    study = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    logs = [tmp_path / entry / 'seed0' / 'last_checkpoint' for entry in ('none', 's4')]
    end = time.monotonic() + HANG
    try:
        while not all(log.exists() for log in logs):
            assert study.poll() is None, study.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        left = {p.pid for p in psutil.Process(study.pid).children(recursive=True)}
        assert len(left) >= 2
    finally:
        study.kill()
    study.communicate(timeout=HANG)
    assert study.returncode == -signal.SIGKILL
    end = time.monotonic() + HANG
    while left:
        assert time.monotonic() < end
        time.sleep(0.1)
        left &= {
            process.pid
            for process in psutil.process_iter(['status'])
            if process.info['status'] != psutil.STATUS_ZOMBIE
        }
