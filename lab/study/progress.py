"""A study's progress on a screen or in a log."""

from types import TracebackType
from typing import Optional, Type

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .run import Status


def in_words(seconds: Optional[float]) -> str:
    """Say how long something takes, roughly."""
    if seconds is None:
        return 'unknown'
    minutes = round(seconds / 60)
    if minutes < 1:
        return f'{seconds:.0f} s'
    return (
        f'{minutes // 60} h {minutes % 60} min' if minutes >= 60 else f'{minutes} min'
    )


class ProgressDisplay:
    """Show a study's progress: a bar on a terminal, else a line for each training.

    Args:
        console (Console): Where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Optional[Progress] = None
        if console.is_terminal:
            self.bar = Progress(
                TextColumn('Training'),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn('{task.description}'),
                console=console,
                transient=True,
            )
            self.task = self.bar.add_task('')

    def __enter__(self) -> 'ProgressDisplay':
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, status: Status) -> None:
        """Show the state of affairs.

        Args:
            status (Status): How far the study has come.
        """
        speed = f'{status.images_per_second:.0f} images/s'
        left = f'{in_words(status.seconds_left)} left'
        done = status.finished + status.failed
        if status.news:
            count = f'[{done}/{status.total}]'
            line = f'{count} {status.news}; {speed} over all, {left}'
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        if self.bar:
            running = ' + '.join(status.running)
            self.bar.update(
                self.task,
                total=status.total,
                completed=done,
                description=f'{speed}, {left}: {running}',
            )
