"""Names of classes: where they stand, and which do not count."""

import pytest
from mmengine.config import Config

from mmcdnv2.builder import build_model
from mmcdnv2.class_names import class_names, number_of_classes

TWO = ('cat', 'dog')


def config(dataset, scope='mmdet'):
    return Config(dict(default_scope=scope, test_dataloader=dict(dataset=dataset)))


@pytest.mark.parametrize(
    'meta',
    [
        dict(dataset_meta=dict(classes=['cat', 'dog'])),
        dict(dataset_meta=dict(CLASSES=TWO)),
        dict(CLASSES=TWO, dataset_meta=None),
        dict(CLASSES=('x',), dataset_meta=dict(classes=TWO)),
    ],
)
def test_names_of_a_checkpoint(meta):
    cfg = config(dict(metainfo=dict(classes=('a', 'b'))))
    assert class_names(cfg, dict(meta=meta)) == TWO


@pytest.mark.parametrize(
    'dataset',
    [
        dict(type='CocoDataset', metainfo=dict(classes=TWO)),
        dict(type='CustomDataset', classes=['cat', 'dog']),
        dict(type='RepeatDataset', dataset=dict(metainfo=dict(classes=TWO))),
        dict(
            type='ConcatDataset',
            datasets=[dict(dataset=dict(classes=TWO)), dict(classes=('x', 'y'))],
        ),
        # Only names that are as many as the model's classes count.
        dict(
            type='ConcatDataset',
            datasets=[dict(metainfo=dict(classes=('x',))), dict(classes=TWO)],
        ),
    ],
)
def test_names_of_a_config(dataset):
    assert class_names(config(dataset), dict(state_dict={}), 2) == TWO


def test_names_that_a_data_set_has_by_itself():
    coco = class_names(config(dict(type='CocoDataset')), {})
    assert (coco[0], len(coco)) == ('person', 80)
    assert class_names(config(dict(type='mmdet.CocoDataset'), 'mmpretrain'), {}) == coco
    imagenet = class_names(config(dict(type='ImageNet'), 'mmpretrain'), {})
    assert (imagenet[0], len(imagenet)) == ('tench, Tinca tinca', 1000)
    assert class_names(config(dict(type='NoSuchDataset')), {}) == ()
    assert class_names(Config(), {}) == ()


@pytest.mark.parametrize('part', ['metainfo', 'classes'])
def test_names_in_a_file(tmp_path, part):
    def named(value):
        dataset = dict(classes=value) if part == 'classes' else dict()
        return config(
            dict(dataset, metainfo=dict(classes=value) if not dataset else {})
        )

    file = tmp_path / 'names.txt'
    assert class_names(named(str(file)), {}) == ()
    file.write_text('cat\ndog\n')
    assert class_names(named(str(file)), {}) == TWO
    assert class_names(named('cat'), {}) == ('cat',)


def test_names_of_other_data_do_not_count():
    cfg = config(dict(metainfo=dict(classes=TWO)))
    content = dict(meta=dict(dataset_meta=dict(classes=('x', 'y', 'z'))))
    assert class_names(cfg, content, 3) == ('x', 'y', 'z')
    assert class_names(cfg, content, 2) == TWO
    assert class_names(cfg, content, 4) == ()


def test_number_of_classes(tiny_configs, retina_config):
    for path in (*tiny_configs.values(), retina_config):
        model = build_model(Config.fromfile(path))
        assert number_of_classes(model) == 10
    assert number_of_classes(model.backbone) is None
