_base_ = './_base_/cdnv2_in1k.py'

model = dict(
    backbone=dict(arch='a'),
    neck=dict(channels=800),
    head=dict(in_channels=800, mid_channels=[828]),
)
