"""Train a study's runs: a loop over ``tools/train.py``, with resumable results."""

import ctypes
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional

import torch

from mmcdnv2.checkpoint import load_checkpoint
from mmcdnv2.errors import InputError
from mmcdnv2.files import replace_when_done
from mmcdnv2.machine import processor_name
from mmcdnv2.version import __version__

from .plan import Run

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / 'tools' / 'train.py'
# Seconds between checks of the running processes.
_PERIOD = 0.2
# Lines of a failed run's log to show.
_LOG_LINES = 8
_LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Result:
    """Result of a finished run.

    Attributes:
        error (float, optional): Top-1 error after the last epoch in percent;
            None if it is NaN.
        loss (float, optional): Mean training loss of the last epoch; None if it
            is not finite.
        kept_fraction (float): Fraction of the sparse layers' weights kept.
        seconds (float): Time of all training iterations.
        images_per_second (float): Training speed.
        resumed (bool): Whether the run was interrupted and resumed; its
            shuffling then differs from that of an uninterrupted run.
        environment (dict[str, str]): Processor and versions.
    """

    error: Optional[float]
    loss: Optional[float]
    kept_fraction: float
    seconds: float
    images_per_second: float
    resumed: bool
    environment: Dict[str, str]

    @property
    def diverged(self) -> bool:
        """bool: Whether the error or the loss is NaN."""
        return self.error is None or self.loss is None

    @property
    def text(self) -> str:
        """str: Error, time and speed."""
        error = 'diverged' if self.diverged else f'error {self.error:.2f} %'
        return f'{error}, {self.seconds:.0f} s, {self.images_per_second:.0f} images/s'


class _Job(NamedTuple):
    run: Run
    process: subprocess.Popen
    core: Optional[int]
    resumed: bool


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and lock it until this process ends or leaves the context.

    Raises:
        InputError: If another study runs in the folder, or it is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / '.lock', os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise InputError(f'{folder} is no writable folder: {error}.') from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f'Another study runs in {folder}: wait for it or choose another folder.'
            ) from None
        yield
    finally:
        os.close(descriptor)


def read_results(runs: List[Run]) -> Dict[str, Result]:
    """Read the results of finished runs whose config has not changed, by name."""
    results = {}
    for run in runs:
        path = run.folder / 'result.json'
        if path.exists() and _is_unchanged(run):
            results[run.name] = Result(**json.loads(path.read_text()))
    return results


def train_runs(
    runs: List[Run],
    results: Dict[str, Result],
    failures: Dict[str, str],
    jobs: Optional[int] = None,
    log: Callable[[str], object] = print,
) -> None:
    """Train the runs that have no result. A failing run does not stop the others.

    Args:
        runs (list[Run]): All runs of the study.
        results (dict[str, Result]): Results by name; completed in place.
        failures (dict[str, str]): Reasons of failures by name; filled in place.
        jobs (int, optional): Number of runs at once. Defaults to one per core.
        log (Callable): Receives a line for each finished run.
    """
    free = _cores(jobs)
    waiting = [run for run in runs if run.name not in results]
    log(f'{len(runs)} runs, {len(waiting)} to train, {len(free)} at once')
    running: List[_Job] = []
    try:
        while waiting or running:
            while waiting and free:
                running.append(_start(waiting.pop(0), free.pop(0), log))
            time.sleep(_PERIOD)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                free.append(job.core)
                news = _finish(job, results, failures)
                log(f'[{len(results) + len(failures)}/{len(runs)}] {news}')
    finally:
        for job in running:
            job.process.kill()
            job.process.wait()


def _cores(jobs: Optional[int]) -> List[Optional[int]]:
    """Return a core for each job; None where it is not to be pinned."""
    if not hasattr(os, 'sched_getaffinity'):
        return [None] * (jobs or os.cpu_count() or 1)
    cores = sorted(os.sched_getaffinity(0))
    # More jobs than cores have to share them.
    return [*cores[:jobs]] if not jobs or jobs <= len(cores) else [None] * jobs


def _is_unchanged(run: Run) -> bool:
    path = run.config_file
    return path.exists() and path.read_text() == run.config_text


def _start(run: Run, core: Optional[int], log: Callable[[str], object]) -> _Job:
    if not _is_unchanged(run):
        if run.folder.exists():
            log(f'{run.name}: its config has changed, so it is trained again')
            shutil.rmtree(run.folder)
        run.config_file.parent.mkdir(exist_ok=True)
        run.config_file.write_text(run.config_text)
    run.folder.mkdir(exist_ok=True)
    # The run ended between this checkpoint and its result. Only training an epoch
    # leads to the test, so repeat the last one.
    run.checkpoint.unlink(missing_ok=True)
    # Its absolute path is wrong if the study was moved.
    (run.folder / 'last_checkpoint').unlink(missing_ok=True)
    command = [sys.executable, str(TRAIN), str(run.config_file)]
    # The plan has checked the data.
    command += ['--work-dir', str(run.folder), '--skip-data-check']
    resumed = any(run.folder.glob('epoch_*.pth'))
    if resumed:
        command += ['--resume', '--trust-checkpoint']
    # These networks are so small that one thread is fastest.
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    paths = [str(ROOT), os.environ.get('PYTHONPATH')]
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, paths))

    def prepare() -> None:
        if _LIBC:
            # End the run when the study is killed.
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if core is not None:
            os.sched_setaffinity(0, {core})

    with open(run.folder / 'log.txt', 'a') as file:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=prepare,
        )
    return _Job(run, process, core, resumed)


def _finish(job: _Job, results: Dict[str, Result], failures: Dict[str, str]) -> str:
    """Record the result or the failure of a job and describe it."""
    run, status = job.run, job.process.returncode
    path = run.folder / 'log.txt'
    text = path.read_text(errors='replace')
    lines = [line for line in text.splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else 'the log is empty'
    if status < 0:
        reason = f'ended by signal {-status}'
    elif status == 0:
        try:
            results[run.name] = _collect_result(run, job.resumed)
            return f'{run.name}: {results[run.name].text}'
        except InputError as error:
            reason = str(error)
    failures[run.name] = reason
    tail = '\n'.join(f'    {line}' for line in lines[-_LOG_LINES:])
    return f'{run.name}: failed, {reason}; the end of {path}:\n{tail}'


def _collect_result(run: Run, resumed: bool) -> Result:
    """Read a run's result from checkpoint and logs; write ``result.json``."""
    scalars = load_checkpoint(run.checkpoint)['message_hub']['log_scalars']
    loss, times = scalars['train/loss'], scalars['train/time'].data[0]
    kept = scalars.get('train/kept_fraction')
    seconds = float(times.sum())
    result = Result(
        error=_finite(100 - _read_accuracy(run.folder)),
        loss=_finite(loss.mean(len(times) // run.epochs)),
        kept_fraction=float(kept.current()) if kept is not None else 1.0,
        seconds=seconds,
        images_per_second=run.images / seconds,
        resumed=resumed,
        environment=dict(
            processor=processor_name(), torch=torch.__version__, mmcdnv2=__version__
        ),
    )
    with replace_when_done(run.folder / 'result.json') as path:
        path.write_text(json.dumps(asdict(result), indent=1) + '\n')
    return result


def _read_accuracy(folder: Path) -> float:
    # MMEngine writes a folder, named by the time, each time it starts.
    for path in sorted(folder.glob('*/vis_data/scalars.json'))[-1:]:
        for line in path.read_text().splitlines():
            scalars = json.loads(line)
            if 'accuracy/top1' in scalars:
                return scalars['accuracy/top1']
    raise InputError(
        f'{folder} has no scalars.json with an accuracy: the visualizer of the config '
        'needs a LocalVisBackend.'
    )


def _finite(value: float) -> Optional[float]:
    return float(value) if math.isfinite(value) else None
