# The paper's CIFAR-10 setting: 300 epochs of SGD on batches of 64.
_base_ = [
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    '../models/condensenet_cifar.py',
    './cifar_schedule.py',
]

model = dict(head=dict(num_classes=10))

train_dataloader = dict(batch_size=64)
val_dataloader = dict(batch_size=64)
test_dataloader = dict(batch_size=64)
