# The demo's detector from scratch, sparsified while it trains. The demo does not use
# it; docs/evidence.md compares SFR's starts with it. Its arch is 'a' with explicit
# settings, so that SFR can be left out.
_base_ = './faster_rcnn_cdnv2_a_fpn_digits.py'

model = dict(
    backbone=dict(
        init_cfg=None,
        arch=dict(
            _delete_=True,
            depths=(1, 1, 4, 6, 8),
            growth_rates=(8, 8, 16, 32, 64),
            groups=8,
            condense_factor=8,
            sparse_factor=8,
        ),
    )
)
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='SparsificationHook', end=0.25),
]
