_base_ = './_base_/faster_rcnn_stride8_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ShuffleNetV2',
        widen_factor=0.5,
        out_indices=(0, 1, 2),
    ),
    neck=dict(in_channels=[48, 96, 192]),
)
# The backbone always computes its last convolution, which is unused here.
find_unused_parameters = True
