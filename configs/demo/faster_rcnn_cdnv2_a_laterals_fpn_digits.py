# The demo's Faster R-CNN with learned group laterals, which sparsify while it trains;
# docs/demo.md compares both.
_base_ = './faster_rcnn_cdnv2_a_fpn_digits.py'

model = dict(
    neck=[
        dict(
            type='LearnedGroupLaterals',
            in_channels=[32, 96, 288, 800],
            out_channels=64,
            condense_factor=[1, 2, 8, 8],
        ),
        dict(type='FPN', in_channels=[64, 64, 64, 64], out_channels=64, num_outs=4),
    ]
)
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='SparsificationHook', end=0.25),
]
