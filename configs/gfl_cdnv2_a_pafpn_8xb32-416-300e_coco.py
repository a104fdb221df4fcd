_base_ = [
    './_base_/models/gfl_cdnv2_a.py',
    './_base_/recipes/rtmdet_416-300e_coco.py',
]
