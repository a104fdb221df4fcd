model = dict(
    type='ImageClassifier',
    backbone=dict(type='CondenseNetV2', arch='a'),
    neck=dict(type='SEGlobalAveragePooling', channels=800),
    head=dict(
        type='StackedLinearClsHead',
        num_classes=1000,
        in_channels=800,
        mid_channels=[828],
        act_cfg=dict(type='HSwish'),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5),
    ),
)
