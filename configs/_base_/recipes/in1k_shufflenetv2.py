# ShuffleNetV2's ImageNet setting: 300 epochs of SGD on batches of 16 x 64.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_pil_resize.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_linearlr_bn_nowd.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmcdnv2'], allow_failed_imports=False)

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
