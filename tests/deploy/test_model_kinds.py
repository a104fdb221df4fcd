"""Condensing models that are more than a backbone, a neck and a head."""

import pytest
import torch
from conftest import TINY_BACKBONE, randomise
from mmengine.config import Config

from lab.zoo import measure
from mmcdnv2.builder import build_model
from mmcdnv2.deploy import condense_checkpoint
from mmcdnv2.errors import InputError
from mmcdnv2.layers import sparse_layers

BACKBONE = TINY_BACKBONE.format(options='_delete_=True')
MAPS = TINY_BACKBONE.format(options='_delete_=True, out_indices=(0, 1, 2)')
MODELS = dict(
    sparse_rcnn=f"""
_base_ = 'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone={MAPS},
    neck=dict(in_channels=[24, 32, 64]),
    rpn_head=dict(num_proposals=10),
    roi_head=dict(
        num_stages=1,
        stage_loss_weights=[1],
        bbox_head=_base_.model.roi_head.bbox_head[:1],
    ),
)
""",
    condinst=f"""
_base_ = 'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py'
model = dict(backbone={MAPS}, neck=dict(in_channels=[24, 32, 64]))
""",
    soft_teacher=f"""
_base_ = (
    'mmdet::soft_teacher/'
    'soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
)
model = dict(
    detector=dict(
        backbone={MAPS},
        neck=dict(in_channels=[24, 32, 64]),
        roi_head=dict(bbox_head=dict(fc_out_channels=32)),
        test_cfg=dict(rpn=dict(max_per_img=5)),
    )
)
""",
    dino=f"""
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
model = dict(
    backbone={MAPS},
    neck=dict(in_channels=[24, 32, 64]),
    encoder=dict(num_layers=1),
    decoder=dict(num_layers=1),
)
""",
    multi_task=f"""
_base_ = 'mmpretrain::_base_/models/resnet18.py'
default_scope = 'mmpretrain'
model = dict(
    backbone={BACKBONE},
    head=dict(
        _delete_=True,
        type='MultiTaskHead',
        task_heads=dict(
            colour=dict(type='LinearClsHead', num_classes=3),
            shape=dict(type='LinearClsHead', num_classes=4),
        ),
        in_channels=64,
    ),
)
""",
    headless=f"""
_base_ = 'mmpretrain::_base_/models/resnet18.py'
default_scope = 'mmpretrain'
model = dict(backbone={BACKBONE}, head=None)
""",
)
WHOLE, BACKBONE_ONLY = {'macs', 'latency'}, {'backbone_macs', 'backbone_latency'}


@pytest.mark.parametrize(
    ('kind', 'compared', 'unmeasured', 'reason'),
    [
        # Their tensor mode computes losses, which needs annotations.
        ('sparse_rcnn', {'neck', 'roi_head.bbox_head.0'}, WHOLE, '_gt_instances'),
        ('condinst', {'neck', 'bbox_head', 'mask_head'}, WHOLE, '_gt_instances'),
        (
            'soft_teacher',
            {
                f'{name}.{part}'
                for name in ('teacher', 'student')
                for part in ('backbone', 'neck', 'rpn_head', 'roi_head.bbox_head')
            },
            BACKBONE_ONLY,
            'backbone',
        ),
        # A small input has fewer pixels than the decoder has queries.
        ('dino', {'neck', 'encoder'}, WHOLE, 'out of range'),
        ('multi_task', {'neck', 'head'}, set(), ''),
        ('headless', {'neck'}, set(), ''),
    ],
)
def test_condenses(tmp_path, kind, compared, unmeasured, reason):
    config = tmp_path / 'config.py'
    config.write_text(MODELS[kind])
    torch.manual_seed(0)
    model = build_model(Config.fromfile(config))
    model.init_weights()
    randomise(model)
    for layer in sparse_layers(model).values():
        layer.set_progress(1)
    checkpoint = tmp_path / 'checkpoint.pth'
    torch.save(dict(state_dict=model.state_dict()), checkpoint)

    report = condense_checkpoint(
        str(config), str(checkpoint), tmp_path / 'out', input_shape=(32, 32)
    )
    assert report.max_difference < 1e-4
    assert compared <= set(report.compared)
    assert set(report.unmeasured) == unmeasured
    for name in WHOLE | BACKBONE_ONLY:
        pair = getattr(report, name)
        assert pair is None if name in unmeasured else min(pair) > 0
    for name in unmeasured:
        assert reason in report.unmeasured[name]
    if 'macs' in unmeasured:
        with pytest.raises(InputError, match='cannot be counted'):
            measure(config, (32, 32))
    condensed = build_model(Config.fromfile(report.config))
    weights = torch.load(report.checkpoint, weights_only=True)['state_dict']
    condensed.load_state_dict(weights)
    assert not sparse_layers(condensed)
