# Figure 8b. S = 4 is cdnv2-110_1xb64_cifar10.py.
_base_ = '../_base_/cdnv2-110_cifar10_spelled_out.py'

model = dict(backbone=dict(arch=dict(sparse_factor=8)))
