"""A study so small that a run takes seconds, most of them for imports."""

import shutil
from dataclasses import replace

import pytest
from conftest import ROOT

from lab.study import Settings, run_study

ARCH = 'depths=(1, 1, 1), growth_rates=(8, 8, 16)'


@pytest.fixture(scope='session')
def tiny_config(tmp_path_factory, digits):
    """The study's config with a tiny network and the demo's tiny data."""
    path = tmp_path_factory.mktemp('study') / 'tiny.py'
    loader = f'data_root={str(digits / "classification")!r}'
    path.write_text(
        f"""_base_ = {str(ROOT / 'configs' / 'study' / 'digits.py')!r}
model = dict(backbone=dict(arch=dict({ARCH})), head=dict(in_channels=48))
train_dataloader = dict(batch_size=15, dataset=dict({loader}))
val_dataloader = dict(batch_size=15, dataset=dict({loader}))
train_cfg = dict(max_epochs=2)
"""
    )
    return path


@pytest.fixture
def settings(tiny_config, tmp_path):
    """Make settings of the tiny study."""

    def make(*entries, **changes):
        changes = dict(dict(seeds=(0,), out=tmp_path / 'out'), **changes)
        return Settings(str(tiny_config), entries=entries, **changes)

    return make


@pytest.fixture(scope='session')
def trained(tiny_config, tmp_path_factory):
    """Settings of a study of two runs, trained; what the study logged."""
    out = tmp_path_factory.mktemp('trained') / 'out'
    settings = Settings(str(tiny_config), out, entries=('none', 's4'), seeds=(0,))
    lines = []
    run_study(settings, 2, lines.append)
    return settings, lines


@pytest.fixture
def moved(trained, tmp_path):
    """Settings of a copy of the trained study."""
    shutil.copytree(trained[0].out, tmp_path / 'moved')
    return replace(trained[0], out=tmp_path / 'moved')
