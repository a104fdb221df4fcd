_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmcdnv2'], allow_failed_imports=False)

# Half the two-stage detectors' learning rate, as in mmdet's RetinaNet configs.
optim_wrapper = dict(optimizer=dict(lr=0.01))
