_base_ = './_base_/mask_rcnn_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True, type='CondenseNetV2', arch='c', out_indices=(1, 2, 3, 4)
    ),
    neck=dict(in_channels=[144, 400, 1040, 2064]),
)
