_base_ = '../_base_/recipes/cifar100.py'

model = dict(backbone=dict(arch='v1-cifar-74'), head=dict(in_channels=688))
custom_hooks = [dict(type='SparsificationHook', group_lasso=1e-5)]
