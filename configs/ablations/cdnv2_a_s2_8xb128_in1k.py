# Figure 8. S = 8 is cdnv2_a_8xb128_in1k.py.
_base_ = [
    '../_base_/models/cdnv2_a_spelled_out.py',
    '../_base_/recipes/in1k_augmented.py',
]

model = dict(backbone=dict(arch=dict(sparse_factor=2)))
