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
