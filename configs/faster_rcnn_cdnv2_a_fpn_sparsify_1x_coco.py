# Sparsifies while training to detect. A fully pruned ImageNet checkpoint needs no hook:
# its masks stay.
_base_ = './faster_rcnn_cdnv2_a_fpn_1x_coco.py'

custom_hooks = [dict(type='SparsificationHook')]
