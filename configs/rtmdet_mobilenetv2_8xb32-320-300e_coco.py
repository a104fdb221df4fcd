_base_ = [
    './_base_/models/rtmdet_mobilenetv2.py',
    './_base_/recipes/rtmdet_320-300e_coco.py',
]
