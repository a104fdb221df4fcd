# Table 4's CondenseNet-A: neither reactivation, nor hard-swish, nor squeeze-and-excite.
# The paper does not say what its classifier is; this is that of the other rows.
_base_ = './cdnv2_a_no-se-hs_4xb64-orig_in1k.py'

model = dict(backbone=dict(arch=dict(sparse_factor=None)))
