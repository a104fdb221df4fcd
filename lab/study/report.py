"""Means, spreads and verdicts of a study."""

import math
import statistics
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from mmcdnv2.errors import InputError

from .grid import COMPARISONS, Comparison
from .plan import PlannedEntry, Training
from .run import Outcome

# Two-sided 95 % quantiles of Student's t by degrees of freedom, from 2; the last one
# for all above, where it is a little too strict.
_QUANTILES = (4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
# With fewer seeds the spread of a difference says next to nothing.
MIN_PAIRS = 3


@dataclass(frozen=True)
class Row:
    """An entry's errors.

    Attributes:
        name (str): Name of the entry.
        title (str): Its title.
        params (int): Parameters, condensed.
        macs (int): MACs of one image, condensed.
        errors (dict[int, float]): Top-1 errors in percent by seed.
        diverged (tuple[int]): Seeds whose training ended in no numbers; they
            are in no mean.
        missing (tuple[int]): Seeds whose training failed or is yet to come.
        images_per_second (float): Mean over the trainings, but for those of
            which only the test was left when they were resumed; 0 if there is
            none.
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
        """float: Mean error; None if there is none."""
        return statistics.mean(self.errors.values()) if self.errors else None

    @property
    def deviation(self) -> Optional[float]:
        """float: Standard deviation of a training; None of fewer than two."""
        return statistics.stdev(self.errors.values()) if len(self.errors) > 1 else None

    @property
    def text(self) -> str:
        """str: Mean, standard deviation and how many they are of."""
        if self.mean is None:
            return 'none'
        spread = '' if self.deviation is None else f' ± {self.deviation:.2f}'
        return f'{self.mean:.2f}{spread} ({len(self.errors)})'

    @property
    def left_out(self) -> str:
        """str: Which seeds are in no mean, and why; '' if all are."""
        parts = []
        for reason, seeds in (('diverged', self.diverged), ('missing', self.missing)):
            if seeds:
                parts.append(f'seed {", ".join(map(str, seeds))} {reason}')
        return '; '.join(parts)


@dataclass(frozen=True)
class Difference:
    """An entry's error, or another number, less that of a reference, seed by seed.

    Attributes:
        entry (str): Name of the entry.
        reference (str): Name of the reference.
        mean (float): Mean difference, of errors in percentage points; there
            the entry is better below 0.
        standard_error (float, optional): Of that mean; None of one pair.
        pairs (int): Seeds that both have.
        verdict (str): 'better' or 'worse' (of other numbers other words) if a
            t-test of the pairs tells the mean from 0 at 95 %, else 'level';
            'too few seeds' below :data:`MIN_PAIRS`.
    """

    entry: str
    reference: str
    mean: float
    standard_error: Optional[float]
    pairs: int
    verdict: str

    @property
    def text(self) -> str:
        """str: Mean and standard error."""
        spread = self.standard_error
        return f'{self.mean:+.2f}' + ('' if spread is None else f' ± {spread:.2f}')


@dataclass(frozen=True)
class Section:
    """A comparison and what came of it.

    Attributes:
        comparison (Comparison): What was compared.
        rows (tuple[Row]): Its entries, as far as they were to be trained.
        differences (tuple[Difference]): Those of entries with common seeds.
    """

    comparison: Comparison
    rows: Tuple[Row, ...]
    differences: Tuple[Difference, ...]


@dataclass(frozen=True)
class Report:
    """What a study came to.

    Attributes:
        data (str): Name of the study's config.
        epochs (int): Epochs of each training.
        seeds (tuple[int]): Seeds of each entry.
        rows (tuple[Row]): All entries.
        sections (tuple[Section]): Comparisons of which two entries at least
            were to be trained.
        failures (dict[str, str]): Why trainings failed, by their names.
        environments (tuple[str]): Machines and versions that trained.
    """

    data: str
    epochs: int
    seeds: Tuple[int, ...]
    rows: Tuple[Row, ...]
    sections: Tuple[Section, ...]
    failures: Dict[str, str]
    environments: Tuple[str, ...]


def make_report(data: str, trainings: Sequence[Training], outcome: Outcome) -> Report:
    """Average what trainings came to, and compare.

    Args:
        data (str): Name of the study's config.
        trainings (Sequence[Training]): All of the study.
        outcome (Outcome): What became of them.

    Returns:
        Report: Of those that are finished; the others are named.
    """
    if not trainings:
        raise InputError('There is nothing to report without trainings.')
    grouped: Dict[str, List[Training]] = {}
    for training in trainings:
        grouped.setdefault(training.planned.entry.name, []).append(training)
    rows = {
        name: _row(group[0].planned, group, outcome) for name, group in grouped.items()
    }
    environments = [
        ', '.join(f'{key} {value}' for key, value in result.environment.items())
        for result in outcome.results.values()
    ]
    sections = []
    for comparison in COMPARISONS:
        present = tuple(rows[name] for name in comparison.entries if name in rows)
        if len(present) > 1:
            pairs = comparison.pairs(row.name for row in present)
            found = [compare(rows[entry], rows[other]) for entry, other in pairs]
            differences = tuple(one for one in found if one)
            sections.append(Section(comparison, present, differences))
    return Report(
        data=data,
        epochs=trainings[0].planned.cfg.train_cfg.max_epochs,
        seeds=tuple(dict.fromkeys(training.seed for training in trainings)),
        rows=tuple(rows.values()),
        sections=tuple(sections),
        failures=outcome.failures,
        environments=tuple(dict.fromkeys(environments)),
    )


def _row(planned: PlannedEntry, trainings: List[Training], outcome: Outcome) -> Row:
    errors: Dict[int, float] = {}
    diverged, missing, speeds = [], [], []
    for training in trainings:
        result = outcome.results.get(training.name)
        if result is None:
            missing.append(training.seed)
            continue
        if result.images_per_second:
            speeds.append(result.images_per_second)
        if result.error is None or result.diverged:
            diverged.append(training.seed)
        else:
            errors[training.seed] = result.error
    return Row(
        name=planned.entry.name,
        title=planned.entry.title,
        params=planned.params,
        macs=planned.macs,
        errors=errors,
        diverged=tuple(diverged),
        missing=tuple(missing),
        images_per_second=statistics.mean(speeds) if speeds else 0.0,
    )


def compare(row: Row, reference: Row) -> Optional[Difference]:
    """Compare two entries seed by seed.

    Args:
        row (Row): The one.
        reference (Row): The other.

    Returns:
        Difference | None: None if they have no seed in common.
    """
    names = (row.name, reference.name)
    return compare_seeds(names, row.errors, reference.errors, ('better', 'worse'))


def compare_seeds(
    names: Tuple[str, str],
    numbers: Dict[int, float],
    references: Dict[int, float],
    verdicts: Tuple[str, str],
) -> Optional[Difference]:
    """Compare a number of two entries seed by seed.

    Args:
        names (tuple[str]): Names of entry and reference.
        numbers (dict[int, float]): The entry's by seed.
        references (dict[int, float]): The reference's by seed.
        verdicts (tuple[str]): What a mean that is below 0 and one that is
            above 0 are called.

    Returns:
        Difference | None: None if they have no seed in common.
    """
    seeds = [seed for seed in numbers if seed in references]
    if not seeds:
        return None
    differences = [numbers[seed] - references[seed] for seed in seeds]
    mean = statistics.mean(differences)
    count = len(differences)
    spread = None
    if count > 1:
        spread = statistics.stdev(differences) / math.sqrt(count)
    verdict = 'too few seeds'
    if spread is not None and count >= MIN_PAIRS:
        quantile = _QUANTILES[min(count - 1 - 2, len(_QUANTILES) - 1)]
        verdict = 'level'
        if abs(mean) > quantile * spread:
            verdict = verdicts[0] if mean < 0 else verdicts[1]
    return Difference(*names, mean, spread, count, verdict)
