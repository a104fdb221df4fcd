_base_ = './_base_/faster_rcnn_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True, type='CondenseNetV2', arch='a', out_indices=(1, 2, 3, 4)
    ),
    neck=dict(in_channels=[32, 96, 288, 800]),
)
