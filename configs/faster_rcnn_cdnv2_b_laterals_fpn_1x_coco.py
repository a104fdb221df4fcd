_base_ = './faster_rcnn_cdnv2_b_fpn_1x_coco.py'

model = dict(
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[72, 216, 600, 1176],
            out_channels=80,
            condense_factor=[2, 4, 8, 8],
        ),
        dict(type='FPN', in_channels=[80, 80, 80, 80], out_channels=80, num_outs=5),
    ],
    rpn_head=dict(in_channels=80, feat_channels=80),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=80),
        bbox_head=dict(in_channels=80, fc_out_channels=512),
    ),
    test_cfg=dict(rpn=dict(max_per_img=300)),
)
# Prunes the laterals, and the backbone unless it is pretrained.
custom_hooks = [dict(type='SparsificationHook')]
