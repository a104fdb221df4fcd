_base_ = './_base_/retinanet_fpn_1x_coco.py'

model = dict(
    backbone=dict(_delete_=True, type='MobileNetV2', out_indices=(2, 4, 6)),
    neck=dict(in_channels=[32, 96, 320], start_level=0),
)
# The backbone always computes its last convolution, which is unused here.
find_unused_parameters = True
