_base_ = [
    './_base_/models/gfl_cdnv2_a.py',
    './_base_/recipes/rtmdet_320-300e_coco.py',
]
