# Table 4: with SFR, ReLU instead of hard-swish, no squeeze-and-excite.
_base_ = [
    '../_base_/models/cdnv2_a_spelled_out.py',
    '../_base_/recipes/in1k_original.py',
]

model = dict(
    backbone=dict(arch=dict(hswish_from=None, se_from=None)),
    neck=dict(_delete_=True, type='GlobalAveragePooling'),
    head=dict(
        act_cfg=dict(type='ReLU'),
        loss=dict(_delete_=True, type='CrossEntropyLoss'),
    ),
)
