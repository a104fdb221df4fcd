_base_ = '../_base_/recipes/cifar100.py'

model = dict(backbone=dict(arch='cifar-110'), head=dict(in_channels=688))
