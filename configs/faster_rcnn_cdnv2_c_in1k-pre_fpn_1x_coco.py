# Starts from our ImageNet checkpoint, sparse or condensed. Masks and norm statistics
# stay; two images per GPU would blur the latter.
_base_ = './faster_rcnn_cdnv2_c_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/cdnv2_c_8xb128_in1k/epoch_350.pth',
            prefix='backbone.',
        ),
    )
)
