# MMDetection's RTMDet-tiny from random weights on the demo's digits. Four epochs take
# as long as rtmdet_cdnv2_a_digits.py's six and the classifier; docs/demo.md compares
# them.
_base_ = './rtmdet_cdnv2_a_digits.py'

max_epochs = 4
norm_cfg = dict(type='BN')
act_cfg = dict(type='SiLU', inplace=True)

model = dict(
    backbone=dict(
        _delete_=True,
        type='CSPNeXt',
        arch='P5',
        expand_ratio=0.5,
        deepen_factor=0.167,
        widen_factor=0.375,
        channel_attention=True,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    neck=dict(
        _delete_=True,
        type='CSPNeXtPAFPN',
        in_channels=[96, 192, 384],
        out_channels=96,
        num_csp_blocks=1,
        expand_ratio=0.5,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    ),
    bbox_head=dict(
        in_channels=96, feat_channels=96, use_depthwise=False, share_conv=True
    ),
)
# Its head shares convolutions.
optim_wrapper = dict(paramwise_cfg=dict(bypass_duplicate=True))
custom_hooks = [dict(type='ChannelsLastHook')]
param_scheduler = _base_.param_scheduler
param_scheduler[1].T_max = max_epochs
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
