_base_ = './rtmdet_cdnv2_a.py'

model = dict(
    backbone=dict(arch='b'),
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[216, 600, 1176],
            out_channels=80,
            condense_factor=[4, 8, 8],
            norm_cfg=dict(type='BN'),
        ),
        dict(_base_.model.neck[1], in_channels=[80, 80, 80], out_channels=80),
    ],
    bbox_head=dict(in_channels=80, feat_channels=80),
)
