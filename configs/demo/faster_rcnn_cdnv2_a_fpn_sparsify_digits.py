# The demo's detector from scratch, sparsified while it learns to detect. The demo does
# without it; docs/evidence.md compares the reactivation's starts by it, too. Its arch
# is 'a' with its settings in the open, to leave the reactivation out.
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
