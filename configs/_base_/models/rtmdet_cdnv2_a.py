# RTMDet's neck and head at a twelfth of RTMDet-tiny's MACs: learned group laterals to
# 64 channels, then depthwise separable convolutions instead of dense ones.
model = dict(
    type='RTMDet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        # RGB, as in the backbones' ImageNet recipes; CSPNeXt's use BGR.
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        batch_augments=None,
    ),
    backbone=dict(type='CondenseNetV2', arch='a', out_indices=(2, 3, 4)),
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[96, 288, 800],
            out_channels=64,
            condense_factor=[2, 8, 8],
            norm_cfg=dict(type='BN'),
        ),
        dict(
            type='CSPNeXtPAFPN',
            in_channels=[64, 64, 64],
            out_channels=64,
            num_csp_blocks=1,
            expand_ratio=0.5,
            use_depthwise=True,
            norm_cfg=dict(type='BN'),
            act_cfg=dict(type='SiLU', inplace=True),
        ),
    ],
    bbox_head=dict(
        type='RTMDetSepBNHead',
        num_classes=80,
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(
            type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0
        ),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        with_objectness=False,
        exp_on_reg=False,
        # mmdet's head cannot share depthwise separable convolutions.
        use_depthwise=True,
        share_conv=False,
        pred_kernel_size=1,
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='SiLU', inplace=True),
    ),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=30000,
        min_bbox_size=0,
        score_thr=0.001,
        nms=dict(type='nms', iou_threshold=0.65),
        max_per_img=300,
    ),
)
