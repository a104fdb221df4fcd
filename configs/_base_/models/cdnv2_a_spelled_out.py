# CondenseNetV2-A with explicit settings, for ablations to override.
_base_ = './cdnv2_a.py'

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            depths=(1, 1, 4, 6, 8),
            growth_rates=(8, 8, 16, 32, 64),
            groups=8,
            condense_factor=8,
            sparse_factor=8,
        )
    )
)
