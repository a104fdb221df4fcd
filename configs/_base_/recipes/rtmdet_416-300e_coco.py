# The same at 416x416.
_base_ = './rtmdet_300e_coco.py'

size = (416, 416)

train_pipeline = _base_.train_pipeline
train_pipeline_stage2 = _base_.train_pipeline_stage2
test_pipeline = _base_.test_pipeline
custom_hooks = _base_.custom_hooks

mosaic, resize, crop = train_pipeline[2:5]
mosaic.img_scale = size
resize.scale = (2 * size[0], 2 * size[1])
crop.crop_size = size
pad, mixup = train_pipeline[7:9]
pad.size = size
mixup.img_scale = size
resize, crop = train_pipeline_stage2[2:4]
resize.scale = size
crop.crop_size = size
train_pipeline_stage2[6].size = size
resize, pad = test_pipeline[1:3]
resize.scale = size
pad.size = size
custom_hooks[1].switch_pipeline = train_pipeline_stage2
del mosaic, resize, crop, pad, mixup

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
