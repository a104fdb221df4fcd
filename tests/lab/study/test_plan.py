"""What is refused before anything is trained, and what is planned."""

import shutil
import sys
from dataclasses import replace

import pytest
from conftest import ROOT

from lab.study import COMPARISONS, ENTRIES, QUICK, run_study
from lab.study.costs import count_costs, widen
from lab.study.grid import Comparison, Entry, select_entries
from lab.study.plan import base_config, plan_study
from lab.study.recipes import SCHEDULES, entry_config, set_epochs
from mmcdnv2.builder import build_model
from mmcdnv2.config import load_config
from mmcdnv2.errors import ConfigError, InputError
from mmcdnv2.layers import SFR


def configs_of(*names, config='digits.py'):
    base = load_config(str(ROOT / 'configs' / 'study' / config))
    return [entry_config(base, ENTRIES[name]) for name in names]


def test_comparisons_are_of_entries():
    named = {name for comparison in COMPARISONS for name in comparison.entries}
    assert named == set(ENTRIES)
    assert set(QUICK) < named
    for comparison in COMPARISONS:
        assert set(comparison.references) < set(comparison.entries)
    ends = Comparison('x', '', '', ('a', 'b', 'c'), ('a', 'b'))
    assert ends.pairs('abc') == [('b', 'a'), ('c', 'a'), ('c', 'b')]
    assert ends.pairs('bc') == [('c', 'b')]


@pytest.mark.parametrize('config', ['digits.py', 'study_cifar10.py'])
def test_the_wider_network_costs_as_much_as_the_one_with_reactivation(config):
    shape = (32, 32)
    plain, with_sfr = configs_of('none', 's4', config=config)
    target = count_costs(with_sfr, shape)[1]
    assert count_costs(plain, shape)[1] < 0.95 * target
    widen(plain, target, shape)
    assert count_costs(plain, shape)[1] == pytest.approx(target, rel=0.02)
    assert not any(isinstance(m, SFR) for m in build_model(plain).modules())
    with pytest.raises(InputError, match='no growth rates give it'):
        widen(plain, 10 * target, shape)


def test_sparsified_networks_are_counted_condensed():
    sparse, dense = configs_of('s4', 's4-dense')
    assert count_costs(dense, (32, 32))[1] > 2 * count_costs(sparse, (32, 32))[1]


def test_entries_change_what_they_say():
    late, lasso, dense, linear, step = configs_of(
        's4-late', 's4-lasso', 's4-dense', 's4-linear', 's4-step'
    )
    assert late.custom_hooks[-1] == dict(
        type='SparsificationHook', begin=0.25, end=0.75
    )
    assert lasso.custom_hooks[-1]['group_lasso'] == 1e-5
    assert [hook.type for hook in dense.custom_hooks] == ['ChannelsLastHook']
    epochs = linear.train_cfg.max_epochs
    # The warm-up stays.
    assert [s.by_epoch for s in linear.param_scheduler] == [False, True]
    assert linear.param_scheduler[1] == SCHEDULES['linear'](epochs)
    assert step.param_scheduler[1].milestones == [epochs // 2, epochs * 3 // 4]
    (shuffle,) = configs_of('sfr-shufflenetv2')
    for loader in (shuffle.train_dataloader, shuffle.val_dataloader):
        kinds = [part.type for part in loader.dataset.pipeline]
        assert kinds[-2:] == ['Resize', 'PackInputs']


def test_schedules_follow_the_epochs():
    (cfg,) = configs_of('s4-step')
    epochs, warm_up = cfg.train_cfg.max_epochs, dict(cfg.param_scheduler[0])
    milestones = cfg.param_scheduler[1].milestones
    set_epochs(cfg, 10 * epochs)
    assert cfg.param_scheduler[1].milestones == [10 * m for m in milestones]
    assert cfg.param_scheduler[0] == warm_up
    (cfg,) = configs_of('s4')
    set_epochs(cfg, 3)
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].T_max) == (3, 3)
    # What takes a few of many epochs takes at least one.
    cfg.train_cfg.max_epochs = 350
    cfg.param_scheduler = [
        dict(type='LinearLR', begin=0, end=5),
        dict(type='CosineAnnealingLR', begin=100, end=101, T_max=1),
        dict(type='LinearLR', by_epoch=False, end=50),
    ]
    set_epochs(cfg, 5)
    assert [s.end for s in cfg.param_scheduler] == [1, 2, 50]
    assert cfg.param_scheduler[1].T_max == 1


def test_trainings_go_seed_by_seed(settings):
    trainings = plan_study(settings('s4', 'none', seeds=(1, 0, 1)))
    names = ['none, seed 1', 's4, seed 1', 'none, seed 0', 's4, seed 0']
    assert [training.name for training in trainings] == names
    assert len({training.fingerprint for training in trainings}) == 4
    assert trainings[0].config().randomness.seed == 1
    # 30 images in each of two epochs.
    assert trainings[0].planned.images == 60


def test_what_is_printed_and_where_data_lies_is_no_other_training(
    settings, digits, tmp_path
):
    (first,) = plan_study(settings('s4'))
    moved = tmp_path / 'moved'
    shutil.copytree(digits / 'classification', moved)
    options = {'default_hooks.logger.interval': 7}
    (second,) = plan_study(settings('s4', data_root=str(moved), options=options))
    assert second.fingerprint == first.fingerprint
    one, other = list(moved.rglob('*.png'))[:2]
    one.write_bytes(other.read_bytes())
    (third,) = plan_study(settings('s4', data_root=str(moved), options=options))
    assert third.fingerprint != first.fingerprint


def test_links_in_the_data_are_followed(settings, digits, tmp_path):
    study = settings('s4', data_root=str(tmp_path / 'data'))
    shutil.copytree(digits / 'classification', tmp_path / 'data')
    (first,) = plan_study(study)
    # A link to nothing and one round in a circle are no data.
    (tmp_path / 'data' / 'train' / 'nothing').symlink_to(tmp_path / 'nothing')
    (tmp_path / 'data' / 'circle').symlink_to(tmp_path / 'data')
    (second,) = plan_study(study)
    assert second.fingerprint == first.fingerprint
    (tmp_path / 'data' / 'train').rename(tmp_path / 'train')
    (tmp_path / 'data' / 'train').symlink_to(tmp_path / 'train')
    (third,) = plan_study(study)
    assert third.fingerprint == first.fingerprint
    one, other = list((tmp_path / 'train').rglob('*.png'))[:2]
    one.write_bytes(other.read_bytes())
    (fourth,) = plan_study(study)
    assert fourth.fingerprint != first.fingerprint


def test_the_network_is_tested_once_after_the_last_epoch(settings):
    cfg = base_config(settings('s4'))
    assert cfg.train_cfg.val_begin > cfg.train_cfg.max_epochs


def test_a_config_without_hooks_keeps_checkpoints(settings, tiny_config, tmp_path):
    cfg = load_config(str(tiny_config))
    cfg.pop('default_hooks')
    cfg.dump(tmp_path / 'no_hooks.py')
    cfg = base_config(replace(settings('s4'), config=str(tmp_path / 'no_hooks.py')))
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 2


@pytest.mark.parametrize(
    ('entries', 'changes', 'message'),
    [
        (['s5'], {}, 'There is no entry s5 in the study: choose from none, '),
        (['s4'], dict(seeds=()), 'at least one seed'),
        (['s4'], dict(epochs=0), 'at least one epoch'),
        (
            ['none', 'g2'],
            dict(options={'model.backbone.arch.groups': 3}),
            'Entry none cannot be built: growth_rates must be divisible',
        ),
        (
            ['s4-late'],
            dict(options={'custom_hooks': [dict(type='NoHook')]}),
            'Entry s4-late cannot be built: KeyError',
        ),
        (
            ['s4'],
            dict(options={'model.backbone.sfr_init': 'zero'}),
            'Entry s4 cannot be built: .*zero',
        ),
        (
            ['s4'],
            dict(options={'model.head.num_classes': 7}),
            'has labels out of range, 10 of 30, for example 7 of .*/train/7/',
        ),
        (
            ['g2'],
            dict(options={'model.backbone.arch': 'a'}),
            'Entry g2 cannot be built: the config has not what it would change',
        ),
        (
            ['s4'],
            dict(options={'param_scheduler': [dict(type='LinearLR', begin=5, end=5)]}),
            'Entry s4 cannot be built: ValueError: end should be larger than begin',
        ),
        *(
            (['s4'], dict(options={key: value}), rf'tiny.py cannot be used: {error}')
            for key, value, error in (
                ('custom_hooks.5.begin', 1, 'KeyError'),
                ('model.backbone.type.x', 1, 'TypeError'),
                ('train_dataloader', 'x', 'AttributeError'),
                ('train_cfg', 'x', 'AttributeError'),
                ('train_dataloader.dataset.data_root', None, 'TypeError'),
            )
        ),
        *(
            (
                ['s4'],
                dict(options={'train_cfg.max_epochs': value}),
                f'tiny.py trains for {value} epochs: set train_cfg.max_epochs',
            )
            for value in ('six', -1)
        ),
    ],
)
def test_bad_input_is_refused_before_training(
    settings, tmp_path, entries, changes, message
):
    with pytest.raises(InputError, match=message):
        run_study(settings(*entries, **changes))
    assert not (tmp_path / 'out').exists()


def test_bad_data_is_refused_before_training(settings, tmp_path):
    with pytest.raises(ConfigError, match='which does not exist'):
        run_study(settings('s4', data_root=str(tmp_path / 'none')))
    for split in ('train', 'val'):
        (tmp_path / 'empty' / split).mkdir(parents=True)
    with pytest.raises(ConfigError, match='Entry s4 cannot be .* Found 0 files in'):
        run_study(settings('s4', data_root=str(tmp_path / 'empty')))
    for split in ('train', 'val'):
        (tmp_path / 'empty' / split / 'cat').mkdir()
    with pytest.raises(ConfigError, match='Entry s4 cannot be .* Found 0 files in'):
        run_study(settings('s4', data_root=str(tmp_path / 'empty')))
    assert not (tmp_path / 'out').exists()


def test_cifar_is_not_fetched_unasked(tmp_path):
    from lab.study import Settings

    config = str(ROOT / 'configs' / 'study' / 'study_cifar10.py')
    settings = Settings(config, tmp_path / 'out', ('s4',), data_root=str(tmp_path))
    with pytest.raises(ConfigError, match='Cannot find CIFAR10'):
        run_study(settings)


@pytest.fixture
def without_data(settings, tmp_path):
    """A study whose config names a folder that is missing: tmp_path / 'data'."""
    root = str(tmp_path / 'data')
    loaders = ('train_dataloader', 'val_dataloader')
    options = {f'{loader}.dataset.data_root': root for loader in loaders}
    return settings('s4', options=options)


def test_missing_digits_are_made(without_data, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        'lab.digits.make_classification', lambda root: made.append(root)
    )
    with pytest.raises(ConfigError, match='does not exist'):
        plan_study(without_data)
    assert made == [str(tmp_path / 'data')]


def test_digits_are_not_made_without_scikit_learn(without_data, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(InputError, match="sklearn.* is missing.*'mmcdnv2.demo.'"):
        plan_study(without_data)


@pytest.mark.parametrize('kind', [OSError, InputError])
def test_digits_that_another_study_has_made_are_used(
    without_data, digits, tmp_path, monkeypatch, kind
):
    def make_too_late(root):
        if complete:
            shutil.copytree(digits / 'classification', root)
        raise kind('the folder is there')

    monkeypatch.setattr('lab.digits.make_classification', make_too_late)
    complete = False
    with pytest.raises(InputError, match='the folder is there'):
        plan_study(without_data)
    complete = True
    assert len(plan_study(without_data)) == 1


def test_selection_keeps_the_order_of_the_grid():
    assert [entry.name for entry in select_entries(['s4', 'none'])] == ['none', 's4']
    assert len(select_entries([])) == len(ENTRIES)
    assert all(isinstance(entry, Entry) for entry in select_entries([]))
