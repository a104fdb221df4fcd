model = dict(
    type='ImageClassifier',
    backbone=dict(type='ShuffleNetV2Plus'),
    neck=dict(
        type='SEGlobalAveragePooling', channels=1280, ratio=4, norm_cfg=dict(type='BN')
    ),
    head=dict(
        type='StackedLinearClsHead',
        num_classes=1000,
        in_channels=1280,
        mid_channels=[1280],
        dropout_rate=0.2,
        act_cfg=dict(type='HSwish'),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5),
    ),
)
