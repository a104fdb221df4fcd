_base_ = './cdnv2_a.py'

model = dict(
    backbone=dict(arch='b'),
    neck=dict(channels=1176),
    head=dict(in_channels=1176, mid_channels=[1024]),
)
