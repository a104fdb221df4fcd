"""A whole study: plan, train, report."""

from pathlib import Path
from typing import Callable, Optional

from mmcdnv2.errors import InputError
from mmcdnv2.machine import usable_cores

from .plan import Settings, plan_study
from .report import Report, make_report
from .run import Outcome, Status, finished, locked, run_trainings
from .tables import write_report


def run_study(
    settings: Settings,
    jobs: Optional[int] = None,
    show: Callable[[Status], object] = bool,
) -> Report:
    """Train what of a study is not trained yet, and write its report.

    The report is written, too, when an exception such as KeyboardInterrupt ends
    the study.

    Args:
        settings (Settings): What is studied.
        jobs (int, optional): How many trainings run at once. Defaults to the
            number of cores that this process may use.
        show (Callable): Called with the state of affairs, about twice a second.

    Returns:
        Report: What it came to, trainings that failed included.

    Raises:
        InputError: If it cannot be run as the settings say; nothing is trained
            then. Or if another process runs a study in the same folder.
    """
    if jobs is not None and jobs < 1:
        raise InputError('At least one training must run at once.')
    trainings = plan_study(settings)
    with locked(settings.out):
        outcome = finished(trainings)
        try:
            run_trainings(trainings, outcome, jobs or usable_cores(), show)
        finally:
            report = make_report(Path(settings.config).stem, trainings, outcome)
            write_report(report, settings.out)
    return report


def report_study(settings: Settings) -> Report:
    """Write the report of what is trained so far; train nothing.

    Args:
        settings (Settings): As those of :func:`run_study`.

    Returns:
        Report: What it came to.

    Raises:
        InputError: If the settings cannot be used.
    """
    trainings = plan_study(settings)
    outcome: Outcome = finished(trainings)
    report = make_report(Path(settings.config).stem, trainings, outcome)
    write_report(report, settings.out)
    return report
