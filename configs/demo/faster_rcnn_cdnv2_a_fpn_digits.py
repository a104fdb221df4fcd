# Fine-tunes a small Faster R-CNN from the pretrained, sparsified backbone.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/recipes/digits_detection.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='CondenseNetV2',
        arch='a',
        out_indices=(1, 2, 3, 4),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/demo/classifier/epoch_4.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=[32, 96, 288, 800], out_channels=64, num_outs=4),
    # Digits need no more than the anchors of the two finest maps, 24 to 68 pixels
    # and higher than wide.
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[6, 8.5], ratios=[1.5], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        # Digits are small enough for the finest map alone; mmcv's own RoIAlign
        # misreads channels-last maps.
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1, use_torchvision=True),
            out_channels=64,
            featmap_strides=[4],
        ),
        bbox_head=dict(
            in_channels=64,
            fc_out_channels=256,
            num_classes=10,
            reg_class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50)),
)
