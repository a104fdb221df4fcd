_base_ = './rtmdet_cdnv2_a.py'

model = dict(
    backbone=dict(arch='c'),
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[400, 1040, 2064],
            out_channels=96,
            norm_cfg=dict(type='BN'),
        ),
        dict(_base_.model.neck[1], in_channels=[96, 96, 96], out_channels=96),
    ],
    bbox_head=dict(in_channels=96, feat_channels=96),
)
