# For backbones whose finest map has stride 8: the anchors keep their sizes in pixels.
_base_ = './faster_rcnn_fpn_1x_coco.py'

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4], strides=[8, 16, 32, 64, 128])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[8, 16, 32], finest_scale=112)
    ),
)
