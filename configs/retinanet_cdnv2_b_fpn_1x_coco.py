_base_ = './_base_/retinanet_fpn_1x_coco.py'

model = dict(
    backbone=dict(_delete_=True, type='CondenseNetV2', arch='b', out_indices=(2, 3, 4)),
    neck=dict(in_channels=[216, 600, 1176], start_level=0),
)
