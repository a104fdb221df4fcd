# NanoDet's strides (8 to 64) and widths with MMDetection's parts: a narrow PAFPN and
# one GFL head with group norms, shared by all maps.
model = dict(
    type='GFL',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        # RGB, as in the backbones' ImageNet recipes; CSPNeXt's use BGR.
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type='CondenseNetV2', arch='a', out_indices=(2, 3, 4)),
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[96, 288, 800],
            out_channels=64,
            condense_factor=[2, 8, 8],
        ),
        dict(
            type='PAFPN',
            in_channels=[64, 64, 64],
            out_channels=64,
            num_outs=4,
            add_extra_convs='on_output',
        ),
    ],
    bbox_head=dict(
        type='GFLHead',
        num_classes=80,
        in_channels=64,
        stacked_convs=1,
        feat_channels=64,
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=5,
            scales_per_octave=1,
            strides=[8, 16, 32, 64],
        ),
        reg_max=7,
        loss_cls=dict(
            type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0
        ),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(type='ATSSAssigner', topk=9),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100,
    ),
)
