"""Means, standard deviations and verdicts of a study."""

import math
import statistics
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from .grid import COMPARISONS, Comparison
from .plan import Run
from .run import Result

# Two-sided 95 % quantiles of Student's t by degrees of freedom, from 2. The last one
# is used for all larger numbers, where it is slightly too strict.
_QUANTILES = (4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
# Fewer seeds give no useful estimate of the spread.
MIN_PAIRS = 3


@dataclass(frozen=True)
class Row:
    """Errors of an entry.

    Attributes:
        name (str): Name of the entry.
        title (str): Its title.
        params (int): Parameters, condensed.
        macs (int): MACs per image, condensed.
        errors (dict[int, float]): Top-1 errors in percent by seed.
        diverged (tuple[int]): Seeds that diverged; not in the mean.
        missing (tuple[int]): Seeds that failed or are not trained yet.
        images_per_second (float): Mean training speed; 0 without results.
    """

    name: str
    title: str
    params: int
    macs: int
    errors: Dict[int, float]
    diverged: Tuple[int, ...]
    missing: Tuple[int, ...]
    images_per_second: float

    @property
    def mean(self) -> Optional[float]:
        """float: Mean error, if there is any."""
        return statistics.mean(self.errors.values()) if self.errors else None

    @property
    def deviation(self) -> Optional[float]:
        """float: Standard deviation, of two errors or more."""
        return statistics.stdev(self.errors.values()) if len(self.errors) > 1 else None

    @property
    def text(self) -> str:
        """str: Mean ± standard deviation (number of seeds)."""
        if self.mean is None:
            return 'none'
        spread = '' if self.deviation is None else f' ± {self.deviation:.2f}'
        return f'{self.mean:.2f}{spread} ({len(self.errors)})'

    @property
    def left_out(self) -> str:
        """str: Seeds that are not in the mean, and why."""
        parts = []
        for reason, seeds in (('diverged', self.diverged), ('missing', self.missing)):
            if seeds:
                parts.append(f'seed {", ".join(map(str, seeds))} {reason}')
        return '; '.join(parts)


@dataclass(frozen=True)
class Difference:
    """Mean difference between an entry and a reference, paired by seed.

    Attributes:
        entry (str): Name of the entry.
        reference (str): Name of the reference.
        mean (float): Mean difference; of errors in percentage points.
        standard_error (float, optional): Its standard error, of two pairs or more.
        pairs (int): Number of seeds that both have.
        verdict (str): 'better' or 'worse' (or other words for other numbers) if a
            paired t-test finds a difference at 95 %, else 'level'; 'too few
            seeds' below :data:`MIN_PAIRS`.
    """

    entry: str
    reference: str
    mean: float
    standard_error: Optional[float]
    pairs: int
    verdict: str

    @property
    def text(self) -> str:
        """str: Mean ± standard error."""
        spread = self.standard_error
        return f'{self.mean:+.2f}' + ('' if spread is None else f' ± {spread:.2f}')


@dataclass(frozen=True)
class Section:
    """A comparison and its results.

    Attributes:
        comparison (Comparison): The comparison.
        rows (tuple[Row]): Its entries that the study contains.
        differences (tuple[Difference]): Those of entries with common seeds.
    """

    comparison: Comparison
    rows: Tuple[Row, ...]
    differences: Tuple[Difference, ...]


@dataclass(frozen=True)
class Report:
    """Results of a study.

    Attributes:
        data (str): Name of the study's config.
        epochs (int): Epochs per run.
        seeds (tuple[int]): Seeds of each entry.
        rows (tuple[Row]): All entries.
        sections (tuple[Section]): Comparisons with at least two entries.
        failures (dict[str, str]): Reasons of failures by the runs' names.
        environments (tuple[str]): Processors and versions used for training.
    """

    data: str
    epochs: int
    seeds: Tuple[int, ...]
    rows: Tuple[Row, ...]
    sections: Tuple[Section, ...]
    failures: Dict[str, str]
    environments: Tuple[str, ...]

    @property
    def heading(self) -> str:
        """str: Config, epochs and seeds."""
        seeds = ', '.join(map(str, self.seeds))
        return f'{self.data}, {self.epochs} epochs, seeds {seeds}'


def make_report(
    data: str,
    runs: Sequence[Run],
    results: Dict[str, Result],
    failures: Dict[str, str],
) -> Report:
    """Average and compare the results of a study.

    Args:
        data (str): Name of the study's config.
        runs (Sequence[Run]): All runs; at least one.
        results (dict[str, Result]): Results of the finished ones by name.
        failures (dict[str, str]): Reasons of failures by name.
    """
    grouped: Dict[str, List[Run]] = {}
    for run in runs:
        grouped.setdefault(run.entry.name, []).append(run)
    rows = {name: _row(group, results) for name, group in grouped.items()}
    environments = [
        ', '.join(f'{key} {value}' for key, value in result.environment.items())
        for result in results.values()
    ]
    sections = []
    for comparison in COMPARISONS:
        present = tuple(rows[name] for name in comparison.entries if name in rows)
        if len(present) > 1:
            found = [_compare(rows, pair) for pair in comparison.pairs(rows)]
            differences = tuple(one for one in found if one)
            sections.append(Section(comparison, present, differences))
    return Report(
        data=data,
        epochs=runs[0].epochs,
        seeds=tuple(dict.fromkeys(run.seed for run in runs)),
        rows=tuple(rows.values()),
        sections=tuple(sections),
        failures=failures,
        environments=tuple(dict.fromkeys(environments)),
    )


def _row(runs: List[Run], results: Dict[str, Result]) -> Row:
    found = {run.seed: results[run.name] for run in runs if run.name in results}
    speeds = [result.images_per_second for result in found.values()]
    return Row(
        name=runs[0].entry.name,
        title=runs[0].entry.title,
        params=runs[0].params,
        macs=runs[0].macs,
        errors={
            seed: result.error
            for seed, result in found.items()
            if result.error is not None and not result.diverged
        },
        diverged=tuple(seed for seed, result in found.items() if result.diverged),
        missing=tuple(run.seed for run in runs if run.seed not in found),
        images_per_second=statistics.mean(speeds) if speeds else 0.0,
    )


def _compare(rows: Dict[str, Row], pair: Tuple[str, str]) -> Optional[Difference]:
    errors, references = (rows[name].errors for name in pair)
    return compare_seeds(pair, errors, references, ('better', 'worse'))


def compare_seeds(
    names: Tuple[str, str],
    numbers: Dict[int, float],
    references: Dict[int, float],
    verdicts: Tuple[str, str],
) -> Optional[Difference]:
    """Compare a number of two entries, paired by seed.

    Args:
        names (tuple[str]): Names of the entry and the reference.
        numbers (dict[int, float]): The entry's, by seed.
        references (dict[int, float]): The reference's, by seed.
        verdicts (tuple[str]): Words for a mean below 0 and above 0.

    Returns:
        Difference | None: None without common seeds.
    """
    seeds = [seed for seed in numbers if seed in references]
    differences = [numbers[seed] - references[seed] for seed in seeds]
    if not differences:
        return None
    mean = statistics.mean(differences)
    count = len(differences)
    spread = None
    if count > 1:
        spread = statistics.stdev(differences) / math.sqrt(count)
    verdict = 'too few seeds'
    if spread is not None and count >= MIN_PAIRS:
        quantile = _QUANTILES[min(count - MIN_PAIRS, len(_QUANTILES) - 1)]
        verdict = 'level'
        if abs(mean) > quantile * spread:
            verdict = verdicts[0] if mean < 0 else verdicts[1]
    return Difference(*names, mean, spread, count, verdict)
