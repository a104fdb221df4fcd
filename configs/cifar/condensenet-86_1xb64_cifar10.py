_base_ = '../_base_/recipes/cifar10.py'

model = dict(backbone=dict(arch='v1-cifar-86'), head=dict(in_channels=800))
