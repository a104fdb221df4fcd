_base_ = [
    './_base_/models/rtmdet_cdnv2_a.py',
    './_base_/recipes/rtmdet_300e_coco.py',
]
