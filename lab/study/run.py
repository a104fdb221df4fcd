"""Run a study's trainings, several at once."""

import json
import multiprocessing
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

from mmcdnv2.errors import InputError

from .plan import Training
from .results import Result, read_result
from .worker import work

# Seconds between looks at the running trainings.
_PERIOD = 0.5


@dataclass(frozen=True)
class Status:
    """How far a study has come.

    Attributes:
        finished (int): Trainings that are finished, now or before.
        failed (int): Trainings that failed.
        total (int): All trainings.
        running (tuple[str]): Names of those that run.
        images (int): Images that were learned from since the study began, for
            now.
        images_left (int): Images that are to come.
        seconds (float): Time since then.
        news (str): What has happened to a training, in a line; mostly ''.
    """

    finished: int
    failed: int
    total: int
    running: tuple
    images: int
    images_left: int
    seconds: float
    news: str = ''

    @property
    def images_per_second(self) -> float:
        """float: Of all trainings together; 0 if none has begun."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> Optional[float]:
        """float: Estimated time to the end; None if nothing is known yet."""
        speed = self.images_per_second
        return self.images_left / speed if speed else None


@dataclass
class Outcome:
    """What became of a study's trainings.

    Attributes:
        results (dict[str, Result]): By the names of the trainings.
        failures (dict[str, str]): The last line of the errors of those that
            failed.
    """

    results: Dict[str, Result]
    failures: Dict[str, str]


def finished(trainings: List[Training]) -> Outcome:
    """Look up which trainings are finished.

    Args:
        trainings (list[Training]): All of a study.

    Returns:
        Outcome: Results of those whose config and data are still the same.
    """
    found = {
        training.name: read_result(training.folder, training.fingerprint)
        for training in trainings
    }
    return Outcome({name: result for name, result in found.items() if result}, {})


def run_trainings(
    trainings: List[Training],
    outcome: Outcome,
    jobs: int,
    show: Callable[[Status], object] = bool,
) -> None:
    """Run the trainings that have no result yet.

    Each one runs in a process of its own, which ends with this one. One that fails
    stops no other.

    Args:
        trainings (list[Training]): In this order.
        outcome (Outcome): What they came to so far; completed in place.
        jobs (int): How many run at once.
        show (Callable): Called with the state of affairs, about twice a second.
    """
    waiting = [t for t in trainings if t.name not in outcome.results]
    runner = _Runner(waiting, outcome, len(trainings), show)
    try:
        runner.run(jobs)
    finally:
        runner.stop()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder for this process.

    Args:
        folder (Path): Made if there is none.

    Raises:
        InputError: If another process that is alive keeps it, or it cannot be
            a folder that this one may write to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{folder} cannot be a folder: {error}.') from error
    path = folder / 'running.pid'
    for _ in range(2):
        try:
            with open(path, 'x') as file:
                file.write(str(os.getpid()))
            break
        except FileExistsError:
            content = path.read_text()
            if not content.isdigit() or _is_alive(int(content)):
                raise InputError(
                    f'Process {content} runs a study in {folder}: wait for it, choose '
                    f'another folder, or remove {path} if it is no study.'
                ) from None
            # Left behind by a process that was killed.
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f'{path} cannot be written: {error}.') from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@dataclass
class _Job:
    """A training that runs."""

    training: Training
    process: Any
    images: Any
    # Images of an interrupted training that it goes on from.
    first: Optional[int] = None

    def done(self) -> int:
        """Images that it has learned from since it was started."""
        if self.first is None:
            if self.images.value < 0:
                return 0
            self.first = self.images.value
        return self.images.value - self.first


class _Runner:
    def __init__(
        self,
        waiting: List[Training],
        outcome: Outcome,
        total: int,
        show: Callable[[Status], object],
    ) -> None:
        self.waiting = waiting
        self.outcome = outcome
        self.total = total
        self.show = show
        self.running: List[_Job] = []
        self.images = 0
        self.began = time.perf_counter()
        # Where processes can be forked, those of the trainings are forked from one
        # that has imported all that they need, which takes seconds.
        methods = multiprocessing.get_all_start_methods()
        name = 'forkserver' if 'forkserver' in methods else 'spawn'
        self.context: Any = multiprocessing.get_context(name)
        if name == 'forkserver':
            self.context.set_forkserver_preload([work.__module__])

    def run(self, jobs: int) -> None:
        """Run all that wait."""
        while self.waiting or self.running:
            while self.waiting and len(self.running) < jobs:
                self._start(self.waiting.pop(0))
            self._report()
            wait([job.process.sentinel for job in self.running], _PERIOD)
            for job in list(self.running):
                if not job.process.is_alive():
                    self._finish(job)

    def stop(self) -> None:
        """End what still runs."""
        for job in self.running:
            job.process.terminate()
        for job in self.running:
            job.process.join()

    def _start(self, training: Training) -> None:
        folder, fingerprint = training.folder, training.fingerprint
        marker = folder / 'training.json'
        content = json.dumps(dict(fingerprint=fingerprint))
        if not marker.exists() or marker.read_text() != content:
            # Of another training: nothing of it must be resumed from.
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(content)
        training.config().dump(folder / 'config.py')
        images = self.context.Value('q', -1)
        name, seed = training.planned.entry.name, training.seed
        process = self.context.Process(
            target=work, args=(str(folder), name, seed, fingerprint, images)
        )
        process.start()
        self.running.append(_Job(training, process, images))

    def _finish(self, job: _Job) -> None:
        self.running.remove(job)
        self.images += job.done()
        training = job.training
        result = read_result(training.folder, training.fingerprint)
        if result:
            self.outcome.results[training.name] = result
            error = 'diverged' if result.diverged else f'error {result.error:.2f} %'
            self._report(
                f'{training.name}: {error}, {result.seconds:.0f} s, '
                f'{result.images_per_second:.0f} images/s'
            )
            return
        reason = _last_line(training.folder / 'log.txt')
        if job.process.exitcode < 0:
            reason = f'it was ended by signal {-job.process.exitcode}'
        self.outcome.failures[training.name] = reason
        self._report(f'{training.name}: failed, {reason}')

    def _report(self, news: str = '') -> None:
        images = sum(job.done() for job in self.running)
        planned = [t.planned.images for t in self.waiting]
        for job in self.running:
            planned.append(job.training.planned.images - max(job.images.value, 0))
        self.show(
            Status(
                finished=len(self.outcome.results),
                failed=len(self.outcome.failures),
                total=self.total,
                running=tuple(job.training.name for job in self.running),
                images=self.images + images,
                images_left=sum(planned),
                seconds=time.perf_counter() - self.began,
                news=news,
            )
        )


def _last_line(path: Path) -> str:
    lines = path.read_text().split('\n') if path.exists() else []
    lines = [line.strip() for line in lines if line.strip()]
    return lines[-1] if lines else 'it left no message'
