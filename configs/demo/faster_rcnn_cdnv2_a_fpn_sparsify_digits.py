# The demo's detector from scratch, sparsified while it learns to detect. The demo does
# without it; docs/evidence.md compares the reactivation's starts by it.
_base_ = './faster_rcnn_cdnv2_a_fpn_digits.py'

model = dict(backbone=dict(init_cfg=None))
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='SparsificationHook', end=0.25),
]
