# The study's task: CondenseNetV2 for CIFAR, on digits that are hard to read. The recipe
# is the paper's for CIFAR (SGD, batches of 64, a cosine from 0.1), shortened so that a
# training run takes a minute or two on one core, and a grid with several seeds an hour
# or two. Such short runs need a warm-up, 4 dense layers per block and a first stride of
# 2. Digits are not flipped.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmcdnv2'], allow_failed_imports=False)

# The study makes missing data.
makes_digits = True
max_epochs = 6

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='CondenseNetV2',
        arch=dict(
            depths=(4, 4, 4),
            growth_rates=(8, 16, 32),
            groups=4,
            condense_factor=4,
            sfr_groups=4,
            sparse_factor=4,
            sfr_order=('conv', 'norm', 'act'),
            stem_stride=2,
            hswish_from=None,
            se_from=None,
        ),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=240,
        topk=(1,),
    ),
)
data_preprocessor = dict(
    num_classes=10,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

dataset = dict(type='CustomDataset', data_root='work_dirs/study/digits/data')
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_prefix='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='RandomCrop', crop_size=32, padding=2),
            dict(type='PackInputs'),
        ],
        **dataset,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_prefix='val',
        pipeline=[
            dict(type='LoadImageFromFile'),
            # The whole image: tools read its size from this.
            dict(type='CenterCrop', crop_size=32),
            dict(type='PackInputs'),
        ],
        **dataset,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    checkpoint=dict(interval=max_epochs, save_optimizer=False),
    logger=dict(interval=100),
)
custom_hooks = [dict(type='ChannelsLastHook'), dict(type='SparsificationHook')]
randomness = dict(seed=0)
