# Table 4's CondenseNet-A: no SFR, hard-swish or squeeze-and-excite. The paper does not
# specify its classifier; this is the one of the other rows.
_base_ = './cdnv2_a_no-se-hs_4xb64-orig_in1k.py'

model = dict(backbone=dict(arch=dict(sparse_factor=None)))
