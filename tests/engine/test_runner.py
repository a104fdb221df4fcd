"""The look at a config's data before a runner is built."""

import os
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset, ImageNet
from toy import ToyData

from mmcdnv2.engine import ExactRunner, build_runner
from mmcdnv2.engine.runner import check_data
from mmcdnv2.errors import InputError

SENTENCE = 'train_dataloader expects its data in {}, which does not exist'


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root with one image, one list of images and no folder of images."""
    monkeypatch.setenv('HOME', str(tmp_path))
    root = tmp_path / 'root'
    (root / 'meta').mkdir(parents=True)
    (tmp_path / 'a.png').touch()
    (root / 'meta' / 'train.txt').write_text(f'{tmp_path}/a.png 0\n')
    return root


def check(dataset):
    scope = 'mmdet' if 'Coco' in str(dataset) else 'mmpretrain'
    content = dict(default_scope=scope, train_dataloader=dict(dataset=dataset))
    check_data(Config(content), 'train_dataloader')


@pytest.mark.parametrize(
    ('dataset', 'path'),
    [
        (
            dict(type='CocoDataset', ann_file='a.json', data_prefix=dict(img='')),
            'a.json',
        ),
        (dict(type='mmdet.CocoDataset', ann_file='a.json'), 'a.json'),
        (dict(type='CustomDataset', data_prefix='train'), 'train'),
        (dict(type='CustomDataset', data_prefix=dict(img_path='train')), 'train'),
        (dict(type='ImageNet', split='val'), 'val'),
        (dict(type=ImageNet, split='val', data_prefix=''), 'val'),
        (dict(type='ImageNet21k', data_prefix='train'), 'train'),
    ],
)
@pytest.mark.parametrize(
    'wrap',
    [
        lambda dataset: dataset,
        lambda dataset: dict(type='RepeatDataset', times=2, dataset=dataset),
        lambda dataset: dict(
            type='ConcatDataset',
            datasets=[
                dict(type='ADataset'),
                dict(type='KFoldDataset', dataset=dataset),
            ],
        ),
    ],
)
def test_missing_data_is_told(root, dataset, path, wrap):
    with pytest.raises(InputError, match=SENTENCE.format(root / path)):
        check(wrap(dict(dataset, data_root=str(root))))


def test_missing_root_is_told(tmp_path):
    with pytest.raises(InputError, match=SENTENCE.format(f'{tmp_path}/none/')):
        check(dict(type='CustomDataset', data_root=str(tmp_path / 'none')))


@pytest.mark.parametrize(
    'dataset',
    [
        dict(data_prefix=dict(img=None, seg=None)),
        dict(data_prefix=dict(img=['a', 'b'])),
        dict(data_prefix=['a', 'b']),
        dict(data_prefix=None, ann_file=None),
        dict(ann_file=['a.json', 'b.json']),
        dict(ann_file=dict(boxes='a.json')),
        dict(data_root=None, data_prefix=dict(img='')),
        dict(data_root='s3://bucket/coco', ann_file='a.json'),
        dict(data_root='cluster:s3://bucket', ann_file='a.json'),
        dict(ann_file='https://server/a.json', data_prefix='http://server/'),
        dict(
            ann_file='a.json',
            backend_args=dict(backend='petrel', path_mapping={'root/': 's3://'}),
        ),
        dict(
            type='CustomDataset',
            data_prefix='train',
            pipeline=[
                dict(
                    type='LoadImageFromFile',
                    file_client_args=dict(backend='lmdb', db_path='a.lmdb'),
                )
            ],
        ),
        # What a folder is for, or whether it is downloaded, is not known.
        dict(type='CIFAR10', data_prefix='cifar10'),
        dict(ann_file='meta/train.txt', data_prefix=dict(seg='none')),
        dict(ann_file='~/a.png'),
        dict(dataset='coco', ann_file='meta/train.txt'),
        dict(type='ConcatDataset', datasets=[BaseDataset(lazy_init=True)]),
    ],
)
def test_what_may_load_is_not_refused(root, dataset):
    check(dict(dict(type='ADataset', data_root=str(root)), **dataset))


@pytest.mark.parametrize(
    ('kind', 'settings'),
    [
        (CustomDataset, dict(ann_file='meta/train.txt', data_prefix='none')),
        (ImageNet, dict(split='train')),
    ],
)
def test_images_elsewhere_are_not_refused(root, kind, settings):
    """The annotations name a whole path, so the folder does not matter."""
    dataset = kind(data_root=str(root), **settings)
    assert os.path.exists(dataset.get_data_info(0)['img_path'])
    check(dict(type=kind.__name__, data_root=str(root), **settings))


@pytest.mark.parametrize(
    ('filename', 'own', 'asked', 'expected'),
    [
        ('configs/a.py', None, None, 'work_dirs/a'),
        ('configs/a.py', 'own', None, 'own'),
        ('configs/a.py', 'own', 'asked', 'asked'),
        (None, None, None, 'work_dirs/unnamed'),
    ],
)
def test_build_runner(monkeypatch, tmp_path, filename, own, asked, expected):
    monkeypatch.chdir(tmp_path)
    content = dict(
        model=dict(type='SEGlobalAveragePooling', channels=16),
        experiment_name=tmp_path.name,
    )
    content.update(dict(work_dir=own) if own else {})
    cfg = Config(content, cfg_text='# as read', filename=filename)
    options = dict(trust_checkpoint=True, runner_type=ExactRunner)
    runner = build_runner(cfg, (), work_dir=asked, **options)
    assert Path(runner.work_dir) == tmp_path / expected
    assert runner.launcher == 'none'
    assert runner.trust_checkpoint


@pytest.mark.parametrize(
    ('device', 'workers', 'expected'),
    [('cpu', 10, (2, False)), ('cpu', 1, (1, False)), ('cuda', 10, (2, True))],
)
def test_loaders_fit_the_machine(monkeypatch, device, workers, expected):
    monkeypatch.setattr('mmcdnv2.engine.runner.usable_cores', lambda: 2)
    monkeypatch.setattr('mmcdnv2.engine.runner.get_device', lambda: device)
    built = []
    monkeypatch.setattr(
        Runner, 'build_dataloader', staticmethod(lambda cfg, *_: built.append(cfg))
    )
    cfg = dict(dataset=ToyData(), num_workers=workers, pin_memory=True)
    ExactRunner.build_dataloader(cfg)
    assert (built[0]['num_workers'], built[0]['pin_memory']) == expected
    # One that is built already is left alone.
    ExactRunner.build_dataloader('loader')
    assert built[1] == 'loader'
