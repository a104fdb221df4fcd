"""What docs/plugin.md promises to authors of other networks."""

import re

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.runner import Runner

from mmcdnv2.deploy import condense_checkpoint
from mmcdnv2.layers import kept_fraction, sparse_layers


def test_densenet_of_the_docs_trains_and_condenses(tmp_path, digits, monkeypatch):
    blocks = re.findall(
        r'```python\n(.*?)```', (ROOT / 'docs/plugin.md').read_text(), re.S
    )
    module, config = blocks
    (tmp_path / 'sfr_densenet.py').write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / 'config.py'
    path.write_text(config.replace("'configs/", f"'{ROOT}/configs/"))

    cfg = Config.fromfile(path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(digits / 'classification')
        loader.batch_size = 8
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.work_dir = str(tmp_path / 'work')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert len(sparse_layers(runner.model)) == 12
    assert kept_fraction(runner.model) == pytest.approx(1 / 4, abs=0.01)

    checkpoint = tmp_path / 'work' / 'epoch_1.pth'
    report = condense_checkpoint(str(path), str(checkpoint), tmp_path / 'out')
    assert report.max_difference < 1e-4
    assert report.macs[1] < report.macs[0]
    weights = torch.load(report.checkpoint)['state_dict']
    assert weights['backbone.stages.0.0.sfr.conv.weight'].shape == (32, 4, 1, 1)
