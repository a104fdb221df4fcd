_base_ = './faster_rcnn_cdnv2_c_fpn_1x_coco.py'

model = dict(
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[144, 400, 1040, 2064],
            out_channels=96,
            condense_factor=[4, 8, 8, 8],
        ),
        dict(type='FPN', in_channels=[96, 96, 96, 96], out_channels=96, num_outs=5),
    ],
    rpn_head=dict(in_channels=96, feat_channels=96),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96),
        bbox_head=dict(in_channels=96, fc_out_channels=512),
    ),
    test_cfg=dict(rpn=dict(max_per_img=300)),
)
# Prunes the laterals, and the backbone unless it is pretrained.
custom_hooks = [dict(type='SparsificationHook')]
