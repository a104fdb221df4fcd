_base_ = './rtmdet_cdnv2_a.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SFRShuffleNetV2',
        widen_factor=1.5,
        out_indices=(0, 1, 2),
    ),
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[176, 352, 704],
            out_channels=96,
            groups=4,
            norm_cfg=dict(type='BN'),
        ),
        dict(_base_.model.neck[1], in_channels=[96, 96, 96], out_channels=96),
    ],
    bbox_head=dict(in_channels=96, feat_channels=96),
)
