_base_ = './rtmdet_cdnv2_a.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(2, 4, 6),
    ),
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[32, 96, 320],
            out_channels=80,
            condense_factor=[1, 2, 4],
            groups=4,
            norm_cfg=dict(type='BN'),
        ),
        dict(_base_.model.neck[1], in_channels=[80, 80, 80], out_channels=80),
    ],
    bbox_head=dict(in_channels=80, feat_channels=80),
)
# The backbone always computes its last convolution, which is unused here.
find_unused_parameters = True
