_base_ = './retinanet_cdnv2_c_fpn_1x_coco.py'

model = dict(
    neck=[
        dict(
            type='LearnedGroupLaterals', in_channels=[400, 1040, 2064], out_channels=96
        ),
        dict(
            type='FPN',
            in_channels=[96, 96, 96],
            out_channels=96,
            add_extra_convs='on_input',
            num_outs=5,
        ),
    ],
    bbox_head=dict(in_channels=96, feat_channels=96),
)
# Prunes the laterals, and the backbone unless it is pretrained.
custom_hooks = [dict(type='SparsificationHook')]
