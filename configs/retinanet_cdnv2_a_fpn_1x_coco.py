_base_ = './_base_/retinanet_fpn_1x_coco.py'

model = dict(
    backbone=dict(_delete_=True, type='CondenseNetV2', arch='a', out_indices=(2, 3, 4)),
    neck=dict(in_channels=[96, 288, 800], start_level=0),
)
