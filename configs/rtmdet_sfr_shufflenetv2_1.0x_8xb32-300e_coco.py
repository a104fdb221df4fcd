_base_ = [
    './_base_/models/rtmdet_sfr_shufflenetv2_1.0x.py',
    './_base_/recipes/rtmdet_300e_coco.py',
]
