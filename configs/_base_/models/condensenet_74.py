model = dict(
    type='ImageClassifier',
    backbone=dict(type='CondenseNetV2', arch='v1-74-g8'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LGCClsHead', num_classes=1000, in_channels=2064, topk=(1, 5)),
)
