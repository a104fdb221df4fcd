"""What the study's networks read, of trainings whose weights are known."""

import json
import math
import statistics

import pytest
import torch
from torch import nn

from lab.connection_maps import block_maps, early_use, lgc_chains
from lab.study import study_connections
from lab.study.connections import UNTRAINED, untrained
from lab.study.plan import plan_study
from lab.study.results import Result
from mmcdnv2.builder import build_model
from mmcdnv2.errors import InputError
from mmcdnv2.layers import LGC, kept_fraction


def pretend_to_train(training, factor, error=10.0):
    """Leave what a training would; all LGCs read early features so much more."""
    model = build_model(training.planned.cfg)
    *_, last = [m for m in model.modules() if isinstance(m, LGC)] or [None]
    if last:
        nn.init.ones_(last.weight)
        # The stem and the first layer; the second one computes the last 8 channels.
        last.weight.data[:, :-8] *= factor
    training.folder.mkdir(parents=True)
    torch.save(dict(state_dict=model.state_dict()), training.folder / 'epoch_2.pth')
    # As of a study that has been moved.
    (training.folder / 'last_checkpoint').write_text('/not/there/epoch_2.pth')
    Result(
        entry=training.planned.entry.name,
        seed=training.seed,
        fingerprint=training.fingerprint,
        error=error,
        loss=1.0,
        kept_fraction=0.25,
        seconds=1.0,
        images_per_second=1.0,
        resumed=False,
        environment={},
    ).write(training.folder)


def early(factor):
    """Early use of three layers, of which the last reads three sources."""
    return 3 * factor / (2 * factor + 1)


def test_numbers_of_known_weights(settings, run, capsys):
    study = settings('none', 's4', 'shufflenetv2', seeds=range(4))
    factors = dict(none=(1, 2, 1, 1), s4=(2, 4, 8, 1), shufflenetv2=4 * (1,))
    for training in plan_study(study):
        name, seed = training.planned.entry.name, training.seed
        if name in factors:
            # The last seed of s4 diverges.
            error = None if (name, seed) == ('s4', 3) else 10.0
            pretend_to_train(training, factors[name][seed], error)
    connections = study_connections(study)
    assert [(use.name, use.has_sfr) for use in connections.entries] == [
        ('none', False),
        ('s4', True),
    ]
    assert connections.left_out == ('shufflenetv2',)
    none, s4 = (
        {seed: numbers['early use'] for seed, numbers in use.trained.items()}
        for use in connections.entries
    )
    assert none == pytest.approx(dict(enumerate(map(early, factors['none']))))
    assert s4 == pytest.approx(dict(enumerate(map(early, factors['s4'][:3]))))
    for use in connections.entries:
        chance = [numbers['early use'] for numbers in use.untrained.values()]
        assert len(set(chance)) == UNTRAINED == 5
        assert 0.7 < statistics.mean(chance) < 1.3
    (difference,) = connections.differences
    assert (difference.entry, difference.reference) == ('s4', 'none')
    pairs = [early(2) - early(1), early(4) - early(2), early(8) - early(1)]
    assert difference.mean == pytest.approx(sum(pairs) / 3)
    error = statistics.stdev(pairs) / math.sqrt(3)
    assert difference.standard_error == pytest.approx(error)
    # 0.26 on the mean, and a standard error of 0.08: too few to tell, at 4.3 of them.
    assert (difference.pairs, difference.verdict) == (3, 'level')

    written = json.loads((study.out / 'connections.json').read_text())
    assert written['entries'][1]['trained']['0']['early use'] == s4[0]
    arguments = ['--config', study.config, '--out', study.out, '--connections']
    arguments += ['--entries', *study.entries, '--seeds', *study.seeds]
    assert run('analysis_tools/study.py', *arguments) == 0
    spread = statistics.stdev(s4.values())
    expected = [
        f'{statistics.mean(s4.values()):.2f} ± {spread:.2f}',
        f'{difference.mean:+.2f} ± {error:.2f}',
        'shufflenetv2.',
    ]
    printed = capsys.readouterr().out
    for text in (printed, (study.out / 'connections.md').read_text()):
        assert all(cell in text for cell in expected)


def test_a_plain_difference_has_a_verdict(settings):
    study = settings('none', 's4', seeds=range(3))
    for training in plan_study(study):
        with_sfr = training.planned.entry.name == 's4'
        pretend_to_train(training, 2 + training.seed / 100 if with_sfr else 1)
    assert [one.verdict for one in study_connections(study).differences] == ['more']


def test_chance_is_pruned_as_the_training_prunes(settings):
    for training in plan_study(settings('s4', 's4-dense')):
        cfg = training.planned.cfg
        state = torch.get_rng_state()
        first, again, other = (untrained(cfg, seed) for seed in (0, 0, 1))
        assert torch.equal(torch.get_rng_state(), state)
        pruned = training.planned.entry.name == 's4'
        assert kept_fraction(first) == (0.25 if pruned else 1)
        values = [
            early_use(lgc_chains(block_maps(m))[0]) for m in (first, again, other)
        ]
        assert values[0] == values[1] != values[2]


def test_what_cannot_be_measured(settings):
    study = settings('none')
    with pytest.raises(InputError, match='No training .* is finished'):
        study_connections(study)
    (training,) = plan_study(study)
    pretend_to_train(training, 1)
    (training.folder / 'epoch_2.pth').unlink()
    with pytest.raises(InputError, match='There is no checkpoint .*none/seed0/epoch_2'):
        study_connections(study)
    (training.folder / 'last_checkpoint').unlink()
    with pytest.raises(InputError, match='none/seed0 has no checkpoint'):
        study_connections(study)
    assert not (study.out / 'connections.json').exists()
