_base_ = '../_base_/recipes/cifar10.py'

model = dict(backbone=dict(arch='v1-cifar-50'), head=dict(in_channels=464))
custom_hooks = [dict(type='SparsificationHook', group_lasso=1e-5)]
