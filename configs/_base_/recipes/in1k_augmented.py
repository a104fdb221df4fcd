# The paper's augmented ImageNet setting: 350 epochs of SGD on batches of 8 x 128.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmcdnv2'], allow_failed_imports=False)

# timm's 'rand-m9-mstd0.5', the authors' augmentation. It differs from
# 'timm_increasing': at a higher level Posterize and Solarize change less, and colour,
# contrast, brightness and sharpness only increase.
# timm rounds bits and thresholds down, mmpretrain up.
round_down = -1 + 1e-6
recolourings = [
    dict(type='AutoContrast'),
    dict(type='Equalize'),
    dict(type='Invert'),
    dict(type='Posterize', magnitude_range=(round_down, 4 + round_down)),
    dict(type='Solarize', magnitude_range=(round_down, 256 + round_down)),
    dict(type='SolarizeAdd', magnitude_range=(0, 110)),
    *(
        dict(type=enhance, magnitude_range=(-0.9, 0.9), random_negative_prob=0.0)
        for enhance in ('ColorTransform', 'Contrast', 'Brightness', 'Sharpness')
    ),
]
warps = [
    dict(type='Rotate', magnitude_range=(0, 30)),
    dict(type='Shear', magnitude_range=(0, 0.3), direction='horizontal'),
    dict(type='Shear', magnitude_range=(0, 0.3), direction='vertical'),
    dict(type='Translate', magnitude_range=(0, 0.45), direction='horizontal'),
    dict(type='Translate', magnitude_range=(0, 0.45), direction='vertical'),
]
# timm draws a random interpolation for each image.
interpolations = ('bilinear', 'bicubic')

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(
                    type='RandomResizedCrop',
                    scale=224,
                    backend='pillow',
                    interpolation=interpolation,
                )
            ]
            for interpolation in interpolations
        ],
    ),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies=[
            *recolourings * 2,
            *(
                dict(warp, interpolation=interpolation)
                for warp in warps
                for interpolation in interpolations
            ),
        ],
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[round(x) for x in _base_.bgr_mean]),
    ),
    # timm's noise on the normalised image, except beyond black and white.
    dict(
        type='RandomErasing',
        erase_prob=0.2,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=_base_.bgr_mean,
        fill_std=_base_.bgr_std,
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.4, momentum=0.9, nesterov=True, weight_decay=4e-5),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    # 5 epochs from 0.1 to 0.4, then a cosine to the end.
    dict(
        type='LinearLR',
        start_factor=0.25,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        T_max=345,
        eta_min=1e-5,
        by_epoch=True,
        begin=5,
        end=350,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=350, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
custom_hooks = [
    dict(type='SparsificationHook'),
    # Averages the norms' statistics as well as the weights.
    dict(
        type='EMAHook',
        momentum=2e-4,
        update_buffers=True,
        priority='ABOVE_NORMAL',
    ),
]
