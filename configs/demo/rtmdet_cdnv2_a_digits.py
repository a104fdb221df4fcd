# RTMDet on the pretrained, sparsified backbone. The learned group laterals sparsify
# while it trains.
_base_ = [
    '../_base_/models/rtmdet_cdnv2_a.py',
    '../_base_/recipes/digits_detection.py',
]

max_epochs = 6

model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/demo/classifier/epoch_4.pth',
            prefix='backbone.',
        ),
    ),
    bbox_head=dict(num_classes=10),
    test_cfg=dict(nms_pre=300, max_per_img=100),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        T_max=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='SparsificationHook', end=0.25),
]
