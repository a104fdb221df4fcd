_base_ = [
    './_base_/models/rtmdet_cdnv2_b.py',
    './_base_/recipes/rtmdet_320-300e_coco.py',
]
