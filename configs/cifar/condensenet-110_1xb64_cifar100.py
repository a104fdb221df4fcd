_base_ = '../_base_/recipes/cifar100.py'

model = dict(backbone=dict(arch='v1-cifar-110'), head=dict(in_channels=1024))
