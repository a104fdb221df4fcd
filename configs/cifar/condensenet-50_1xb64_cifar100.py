_base_ = '../_base_/recipes/cifar100.py'

model = dict(backbone=dict(arch='v1-cifar-50'), head=dict(in_channels=464))
