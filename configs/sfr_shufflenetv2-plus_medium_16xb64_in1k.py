_base_ = './shufflenetv2-plus_medium_16xb64_in1k.py'

model = dict(backbone=dict(sparse_factor=8))
custom_hooks = [dict(type='SparsificationHook')]
