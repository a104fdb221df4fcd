_base_ = [
    './_base_/models/rtmdet_mobilenetv2.py',
    './_base_/recipes/rtmdet_300e_coco.py',
]
