"""A whole study: plan, train, report."""

from pathlib import Path
from typing import Callable, Dict, Optional

from mmcdnv2.errors import InputError

from .plan import Settings, plan_study
from .report import Report, make_report
from .run import locked, read_results, train_runs
from .tables import write_report


def run_study(
    settings: Settings,
    jobs: Optional[int] = None,
    log: Callable[[str], object] = print,
) -> Report:
    """Train the runs of a study that have no result yet, and write its report.

    The report is also written if an exception such as KeyboardInterrupt ends the
    study.

    Args:
        settings (Settings): The study.
        jobs (int, optional): Runs at once. Defaults to one per core.
        log (Callable): Receives lines of progress.

    Returns:
        Report: Failed runs included.

    Raises:
        InputError: If the settings cannot be used or another study runs in the
            folder; nothing is trained then.
    """
    if jobs is not None and jobs < 1:
        raise InputError('At least one run must be trained at once.')
    runs = plan_study(settings)
    with locked(settings.out):
        results = read_results(runs)
        failures: Dict[str, str] = {}
        try:
            train_runs(runs, results, failures, jobs, log)
        finally:
            report = make_report(Path(settings.config).stem, runs, results, failures)
            write_report(report, settings.out)
    return report


def report_study(settings: Settings) -> Report:
    """Write the report of the finished runs; train nothing.

    Raises:
        InputError: If the settings cannot be used.
    """
    runs = plan_study(settings)
    report = make_report(Path(settings.config).stem, runs, read_results(runs), {})
    write_report(report, settings.out)
    return report
