"""What MMDetection, MMPreTrain and mim find by name."""

from pathlib import Path

import pytest
from mmengine.registry import HOOKS, init_default_scope
from mmpretrain import ModelHub, get_model, list_models

import mmcdnv2
from lab.zoo import read_zoo
from mmcdnv2 import registry
from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.engine import ChannelsLastHook, SparsificationHook


def test_classifier_by_name():
    model = get_model('cdnv2_a_8xb128_in1k')
    assert isinstance(model.backbone, CondenseNetV2)
    assert 'cdnv2_a_8xb128_in1k' in list_models(task='Image Classification')


def test_every_config_of_the_model_index_can_be_read(configs):
    names = [model.name for model in read_zoo(configs.parent)]
    assert set(names) <= set(list_models())
    for name in names:
        config = ModelHub.get(name).config
        assert Path(config.filename).stem == name


def test_names_are_unique(configs):
    # mim looks for the name in all folders and refuses to choose.
    names = [path.name for path in configs.rglob('*.py')]
    assert len(names) == len(set(names))


@pytest.mark.parametrize('place', ['.mim', '..', None])
def test_model_index_of_wheel_and_clone(monkeypatch, tmp_path, place):
    registered = []
    monkeypatch.setattr(
        ModelHub, 'register_model_index', lambda *args: registered.append(args)
    )
    package = tmp_path / mmcdnv2.__name__
    monkeypatch.setattr(registry, '__file__', str(package / 'registry.py'))
    (package / '.mim').mkdir(parents=True)
    if place:
        (package / place / 'model-index.yml').touch()
    registry.register_configs()
    assert [root.resolve() for _, root in registered] == (
        [(package / place).resolve()] if place else []
    )


def test_a_taken_name_does_not_stop_the_import():
    with pytest.warns(UserWarning, match='Not all configs were registered by name'):
        registry.register_configs()


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmpretrain'])
@pytest.mark.parametrize('prefix', ['', 'mmengine.', 'mmdet.', 'mmpretrain.'])
@pytest.mark.parametrize('hook', [SparsificationHook, ChannelsLastHook])
def test_hooks_resolve_under_every_scope(scope, prefix, hook):
    init_default_scope(scope)
    built = HOOKS.build(dict(type=prefix + hook.__name__))
    assert type(built) is hook
