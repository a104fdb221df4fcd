_base_ = './rtmdet_sfr_shufflenetv2_1.0x.py'

model = dict(backbone=dict(type='mmpretrain.ShuffleNetV2'))
# The backbone always computes its last convolution, which is unused here.
find_unused_parameters = True
