_base_ = [
    './_base_/models/shufflenetv2_plus.py',
    './_base_/recipes/in1k_shufflenetv2.py',
]

model = dict(backbone=dict(arch='large'))
train_cfg = dict(max_epochs=360)
