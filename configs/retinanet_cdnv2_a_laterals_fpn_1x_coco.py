_base_ = './retinanet_cdnv2_a_fpn_1x_coco.py'

model = dict(
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[96, 288, 800],
            out_channels=64,
            condense_factor=[2, 8, 8],
        ),
        dict(
            type='FPN',
            in_channels=[64, 64, 64],
            out_channels=64,
            add_extra_convs='on_input',
            num_outs=5,
        ),
    ],
    bbox_head=dict(in_channels=64, feat_channels=64),
)
# Prunes the laterals, and the backbone unless it is pretrained.
custom_hooks = [dict(type='SparsificationHook')]
