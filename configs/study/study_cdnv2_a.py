# CondenseNetV2-A on the demo's digits, to compare SFR's starts on an ImageNet network:
# the demo's recipe with the paper's optimiser; entries *-adamw use the demo's. The
# base's S and G are 8; A's first two blocks have ReLU, the others hard-swish. Only
# *-adamw, none, s4 and s4-released fit this config; docs/study.md has the command.
_base_ = '../demo/cdnv2_a_digits.py'

model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            depths=(1, 1, 4, 6, 8),
            growth_rates=(8, 8, 16, 32, 64),
            groups=8,
            condense_factor=8,
            sfr_groups=8,
            sparse_factor=8,
        )
    )
)
optim_wrapper = dict(
    _delete_=True,
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
)
