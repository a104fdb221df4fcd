# Pretrains and sparsifies CondenseNetV2-A on the demo's digits.
_base_ = ['../_base_/models/cdnv2_a.py', 'mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['mmcdnv2'], allow_failed_imports=False)

max_epochs = 4

model = dict(
    head=dict(
        num_classes=10,
        loss=dict(_delete_=True, type='CrossEntropyLoss'),
        topk=(1,),
    )
)
data_preprocessor = dict(
    num_classes=10,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

dataset = dict(
    type='CustomDataset',
    data_root='work_dirs/demo/data/classification',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_prefix='train', **dataset),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_prefix='val', **dataset),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=4e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=30),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        T_max=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(logger=dict(interval=20))
# Early pruning leaves more of the few epochs to recover.
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='SparsificationHook', end=0.25),
]
randomness = dict(seed=0)
