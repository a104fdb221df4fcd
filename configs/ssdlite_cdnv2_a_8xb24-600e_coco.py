# MMDetection's SSDLite, 320x320, with CondenseNetV2-A instead of MobileNetV2 and
# learned group laterals instead of its 1x1 expansions.
_base_ = 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'
custom_imports = dict(imports=['mmcdnv2'], allow_failed_imports=False)

model = dict(
    backbone=dict(_delete_=True, type='CondenseNetV2', arch='a', out_indices=(3, 4)),
    neck=[
        dict(
            type='LearnedGroupLaterals', in_channels=[288, 800], out_channels=[96, 320]
        ),
        dict(
            type='SSDNeck',
            in_channels=(96, 320),
            out_channels=(96, 320, 512, 256, 256, 128),
            level_strides=(2, 2, 2, 2),
            level_paddings=(1, 1, 1, 1),
            l2_norm_scale=None,
            use_depthwise=True,
            norm_cfg=dict(type='BN', eps=0.001, momentum=0.03),
            act_cfg=dict(type='ReLU6'),
            init_cfg=dict(type='TruncNormal', layer='Conv2d', std=0.03),
        ),
    ],
    bbox_head=dict(type='SSDLiteHead', in_channels=(96, 320, 512, 256, 256, 128)),
)
custom_hooks = [*_base_.custom_hooks, dict(type='SparsificationHook')]
