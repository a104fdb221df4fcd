_base_ = './shufflenetv2_1.0x_16xb64_in1k.py'

model = dict(backbone=dict(type='SFRShuffleNetV2'))
custom_hooks = [dict(type='SparsificationHook')]
