"""A study so small that a training takes a second."""

import pytest
from conftest import ROOT

from lab.study import Settings

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
