"""Means, spreads and verdicts, on made-up results."""

import json

import numpy as np
import pytest
from conftest import ROOT
from mmengine.config import Config

from lab.study.grid import COMPARISONS, ENTRIES
from lab.study.plan import PlannedEntry, Training
from lab.study.plot import study_figure
from lab.study.report import make_report
from lab.study.results import Result
from lab.study.run import Outcome
from lab.study.tables import write_report


def made_up(errors, failures=None, speeds=5 * (5.0,)):
    """A report of errors by entry and seed; None stands for a diverged training."""
    cfg = Config(dict(train_cfg=dict(max_epochs=3)))
    trainings, results = [], {}
    for name, per_seed in errors.items():
        planned = PlannedEntry(ENTRIES[name], cfg, 1000, 2000000, 10)
        for seed, error in enumerate(per_seed):
            training = Training(planned, seed, ROOT, 'x')
            trainings.append(training)
            if error != 'missing':
                loss, error = (None, 90.0) if error is None else (0.5, error)
                speed, versions = speeds[seed], dict(torch='2')
                results[training.name] = Result(
                    name, seed, 'x', error, loss, 1.0, 2.0, speed, False, versions
                )
    return make_report('digits', trainings, Outcome(results, failures or {}))


def test_figures_are_numpys():
    errors = dict(none=[12.0, 13.5, 11.0, 12.5], s4=[10.0, 10.5, 9.0, 10.5])
    report = made_up(errors)
    for row in report.rows:
        assert row.mean == pytest.approx(np.mean(errors[row.name]))
        assert row.deviation == pytest.approx(np.std(errors[row.name], ddof=1))
    differences = np.subtract(errors['s4'], errors['none'])
    found = [d for section in report.sections for d in section.differences]
    (one,) = {d for d in found if (d.entry, d.reference) == ('s4', 'none')}
    assert one.mean == pytest.approx(differences.mean())
    assert one.standard_error == pytest.approx(differences.std(ddof=1) / 2)
    assert one.pairs == 4
    assert one.verdict == 'better'


@pytest.mark.parametrize(
    ('none', 's4', 'verdict'),
    [
        # The mean is 3.5 standard errors from 0, which three seeds may well be.
        ([10.0, 10.0, 10.0], [9.5, 8.5, 9.0], 'level'),
        ([10.0, 10.0, 10.0], [9.0, 8.9, 9.1], 'better'),
        ([10.0, 10.0, 10.0], [11.0, 11.1, 10.9], 'worse'),
        ([10.0, 10.0, 10.0], [10.0, 10.0, 10.0], 'level'),
        # Of four seeds, 3.46 and 2.94 standard errors, where 3.18 are needed.
        ([10.0] * 4, [7.0, 9.0, 7.0, 9.0], 'better'),
        ([10.0] * 4, [7.3, 9.3, 7.3, 9.3], 'level'),
        ([10.0, 10.0], [5.0, 5.1], 'too few seeds'),
        ([10.0, 10.0, 10.0], [5.0, None, 5.1], 'too few seeds'),
    ],
)
def test_verdicts(none, s4, verdict):
    report = made_up(dict(none=none, s4=s4))
    assert report.sections[0].differences[0].verdict == verdict


def test_what_is_no_number_or_missing_is_named_and_not_averaged(tmp_path):
    errors = dict(
        none=[10.0, None, 12.0], s4=['missing'] * 3, g1=[None, 7.0, 'missing']
    )
    report = made_up(errors, {'s4, seed 0': 'ValueError: no'})
    none, s4, g1 = report.rows
    assert (none.mean, none.left_out) == (11.0, 'seed 1 diverged')
    assert (s4.mean, s4.text, s4.left_out) == (None, 'none', 'seed 0, 1, 2 missing')
    assert (g1.deviation, g1.left_out) == (None, 'seed 0 diverged; seed 2 missing')
    # No seed in common: nothing to compare.
    assert all(section.differences == () for section in report.sections)
    write_report(report, tmp_path)
    text = (tmp_path / 'study.md').read_text()
    # So does Python write what is no number.
    assert 'nan' not in text
    assert '- s4, seed 0: ValueError: no' in text
    written = (tmp_path / 'study.json').read_text()
    # It is called for what is no number, which is not JSON.
    content = json.loads(written, parse_constant=pytest.fail)
    assert content['rows'][0]['errors'] == {'0': 10.0, '2': 12.0}
    assert (tmp_path / 'study.png').stat().st_size > 1000


def test_a_training_that_was_only_tested_has_no_speed():
    report = made_up(dict(none=[10.0, 11.0, 12.0], s4=[9.0]), speeds=(0.0, 4.0, 6.0))
    assert [row.images_per_second for row in report.rows] == [5.0, 0.0]


@pytest.mark.parametrize(
    ('entries', 'seeds', 'sections'),
    [
        (ENTRIES, 3, len(COMPARISONS)),
        # A panel is narrower than the title of the picture.
        (('s4', 'g1'), 3, 1),
        (('s4', 'g1'), 12, 1),
    ],
)
def test_labels_in_the_picture_do_not_overlap(entries, seeds, sections):
    errors = [10.0 + seed % 3 for seed in range(seeds)]
    report = made_up(dict.fromkeys(entries, errors), speeds=seeds * (5.0,))
    figure = study_figure(report)
    figure.canvas.draw()
    panels = [ax for ax in figure.axes if ax.axison]
    titles = [ax.get_title(loc='left') for ax in panels]
    assert titles == [section.comparison.title for section in report.sections]
    assert len(titles) == sections
    texts = [
        text
        for ax in panels
        for text in [*ax.get_xticklabels(), *ax.texts, ax._left_title]
    ]
    boxes = [text.get_window_extent() for text in [figure._suptitle, *texts]]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        assert (box.x0, box.y0) >= (0, 0)
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
    title = ' '.join(figure._suptitle.get_text().split())
    assert title.startswith('digits, 3 epochs, seeds 0, 1, 2')
    assert title.endswith(': each training, mean and standard deviation')


@pytest.mark.parametrize(
    'errors',
    [
        # A single entry is compared with nothing.
        dict(s4=[10.0, 11.0]),
        dict(none=['missing'] * 2, s4=['missing'] * 2),
    ],
)
def test_no_picture_of_no_comparison(errors, tmp_path):
    picture = tmp_path / 'study.png'
    write_report(made_up(dict(none=[10.0], s4=[9.0])), tmp_path)
    assert picture.exists()
    write_report(made_up(errors), tmp_path)
    assert not picture.exists()
