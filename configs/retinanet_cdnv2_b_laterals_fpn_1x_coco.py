_base_ = './retinanet_cdnv2_b_fpn_1x_coco.py'

model = dict(
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[216, 600, 1176],
            out_channels=80,
            condense_factor=[4, 8, 8],
        ),
        dict(
            type='FPN',
            in_channels=[80, 80, 80],
            out_channels=80,
            add_extra_convs='on_input',
            num_outs=5,
        ),
    ],
    bbox_head=dict(in_channels=80, feat_channels=80),
)
# Prunes the laterals, and the backbone unless it is pretrained.
custom_hooks = [dict(type='SparsificationHook')]
