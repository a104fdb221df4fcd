model = dict(
    type='ImageClassifier',
    backbone=dict(type='CondenseNetV2'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', topk=(1,)),
)
