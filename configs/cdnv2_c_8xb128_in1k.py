_base_ = './_base_/cdnv2_in1k.py'

model = dict(
    backbone=dict(arch='c'),
    neck=dict(channels=2064),
    head=dict(in_channels=2064, mid_channels=[1024]),
)

# The paper tests C with bilinear resizing, A and B with bicubic.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeEdge',
        scale=256,
        edge='short',
        backend='pillow',
        interpolation='bilinear',
    ),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
