_base_ = './faster_rcnn_cdnv2_a_fpn_1x_coco.py'

model = dict(
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[32, 96, 288, 800],
            out_channels=64,
            condense_factor=[1, 2, 8, 8],
        ),
        dict(type='FPN', in_channels=[64, 64, 64, 64], out_channels=64, num_outs=5),
    ],
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=512),
    ),
    test_cfg=dict(rpn=dict(max_per_img=300)),
)
# Prunes the laterals, and the backbone unless it is pretrained.
custom_hooks = [dict(type='SparsificationHook')]
