# The paper's CIFAR-100 setting: 300 epochs of SGD on batches of 64.
_base_ = [
    'mmpretrain::_base_/datasets/cifar100_bs16.py',
    '../models/condensenet_cifar.py',
    './cifar_schedule.py',
]

model = dict(head=dict(num_classes=100))

train_dataloader = dict(batch_size=64)
val_dataloader = dict(batch_size=64)
test_dataloader = dict(batch_size=64)
