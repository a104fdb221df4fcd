_base_ = './rtmdet_cdnv2_a.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SFRShuffleNetV2',
        widen_factor=1.0,
        out_indices=(0, 1, 2),
    ),
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[116, 232, 464],
            out_channels=80,
            groups=4,
            norm_cfg=dict(type='BN'),
        ),
        dict(_base_.model.neck[1], in_channels=[80, 80, 80], out_channels=80),
    ],
    bbox_head=dict(in_channels=80, feat_channels=80),
)
