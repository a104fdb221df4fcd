"""What the README promises to existing MMDetection projects."""

import re

import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.runner import Runner

from mmcdnv2.deploy import condense_checkpoint
from mmcdnv2.layers import kept_fraction

README = (ROOT / 'README.md').read_text()


def test_links_lead_to_files():
    """Those of the pages to each other, to sources and to pictures."""
    links = [
        (page, first or second)
        for page in [*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')]
        for first, second in re.findall(
            r'\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"', page.read_text()
        )
        if not re.match(r'[a-z]+:|#', first or second)
    ]
    assert len(links) > 30
    missing = [
        f'{page.name}: {link}'
        for page, link in links
        if not (page.parent / link.partition('#')[0]).exists()
    ]
    assert missing == []


def test_config_of_the_readme_trains(digits, tmp_path):
    """Nothing of MMDetection's config but backbone and FPN is touched."""
    config = tmp_path / 'config.py'
    config.write_text(re.search(r'```python\n(.*?)```', README, re.S)[1])
    cfg = Config.fromfile(config)
    base = Config.fromfile(
        ROOT / 'configs' / '_base_' / 'faster_rcnn_fpn_1x_coco.py'
    ).model
    for part in set(base) - {'backbone', 'neck'}:
        assert cfg.model[part] == base[part]
    assert dict(cfg.model.neck, in_channels=0) == dict(base.neck, in_channels=0)

    data = dict(
        data_root=str(digits),
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=tuple('0123456789')),
    )
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.update(data)
    cfg.train_dataloader.dataset.pipeline[2].scale = (128, 128)
    cfg.train_cfg = dict(by_epoch=False, max_iters=2)
    cfg.param_scheduler = []
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    before = runner.model.backbone.stem.conv.weight.clone()
    runner.train()
    assert not torch.equal(runner.model.backbone.stem.conv.weight, before)
    # Two iterations jump over six of the seven stages.
    assert kept_fraction(runner.model) == 1 / 8


def test_snippet_of_the_readme_detects(tiny_configs, checkpoints, digits, tmp_path):
    report = condense_checkpoint(
        tiny_configs['detector'], checkpoints['detector'], tmp_path
    )
    snippet = re.findall(r'```python\n(.*?)```', README, re.S)[1]
    for name, path in (
        ('OUT_DIR/CONFIG_condensed.py', report.config),
        ('OUT_DIR/CONFIG_condensed.pth', report.checkpoint),
        ('image.jpg', digits / 'val' / '000000.png'),
    ):
        assert name in snippet
        snippet = snippet.replace(name, str(path))
    scope = {}
    exec(snippet, scope)
    found = scope['found']
    assert len(found['scores']) == len(found['labels']) == len(found['bboxes']) > 0
