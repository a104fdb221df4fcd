_base_ = './cdnv2_a.py'

model = dict(
    backbone=dict(arch='c'),
    neck=dict(channels=2064),
    head=dict(in_channels=2064, mid_channels=[1024]),
)
