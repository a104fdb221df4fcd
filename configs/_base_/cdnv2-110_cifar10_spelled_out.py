# CondenseNetV2-110 with explicit settings, for the configs of Figure 8 to override. The
# paper only states that the figure is on CIFAR-10; the network is our choice.
_base_ = '../cifar/cdnv2-110_1xb64_cifar10.py'

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            depths=(12, 12, 12),
            growth_rates=(8, 16, 32),
            groups=4,
            condense_factor=4,
            sfr_groups=4,
            sparse_factor=4,
            sfr_order=('conv', 'norm', 'act'),
            stem_stride=1,
            hswish_from=None,
            se_from=None,
        )
    )
)
