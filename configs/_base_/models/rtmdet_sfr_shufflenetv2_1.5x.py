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
        dict(
            type='CSPNeXtPAFPN',
            in_channels=[96, 96, 96],
            out_channels=96,
            num_csp_blocks=1,
            expand_ratio=0.5,
            use_depthwise=True,
            norm_cfg=dict(type='BN'),
            act_cfg=dict(type='SiLU', inplace=True),
        ),
    ],
    bbox_head=dict(in_channels=96, feat_channels=96),
)
