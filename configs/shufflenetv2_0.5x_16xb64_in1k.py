_base_ = ['./_base_/models/shufflenetv2.py', './_base_/recipes/in1k_shufflenetv2.py']

model = dict(backbone=dict(widen_factor=0.5))
