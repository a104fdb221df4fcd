"""Negative and zero running variances."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger


@pytest.fixture
def norm_of(checkpoints, tmp_path):
    """Save the classifier with changed variances in one norm; return its name."""

    def save(value, channels):
        content = torch.load(checkpoints['classifier'])
        name = next(n for n in content['state_dict'] if n.endswith('running_var'))
        content['state_dict'][name][:channels] = value
        path = tmp_path / 'bad.pth'
        torch.save(content, path)
        return name[: -len('.running_var')], path

    return save


@pytest.mark.parametrize('value', [-1e-9, -1.0, -float('inf')])
def test_rejects_negative_variances(run, tiny_configs, norm_of, tmp_path, value):
    name, path = norm_of(value, 2)
    out = tmp_path / 'out'
    error = run('condense.py', tiny_configs['classifier'], path, out)
    assert f'the running variance of {name} is negative in 2 of ' in error
    assert not out.exists()


def test_warns_about_zero_variances(run, tiny_configs, norm_of, tmp_path, caplog):
    name, path = norm_of(0.0, 3)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        assert run('condense.py', tiny_configs['classifier'], path, tmp_path / 'o') == 0
    logger.removeHandler(caplog.handler)
    assert f'The running variance is zero in channels of {name} (3 of ' in caplog.text
    assert list((tmp_path / 'o').glob('*_condensed.pth'))
