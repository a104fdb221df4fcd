# The study's networks on CIFAR-10 in the paper's setting: 300 epochs of SGD.
_base_ = '../_base_/cdnv2-110_cifar10_spelled_out.py'

model = dict(
    backbone=dict(arch=dict(depths=(4, 4, 4), stem_stride=2)),
    head=dict(in_channels=240),
)

# The study runs one training run per core.
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)

# The study compares last epochs: the best epoch on the test images would favour
# networks whose error fluctuates.
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best=None))
