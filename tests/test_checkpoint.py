"""What a checkpoint may hold, and how damage is told from distrust."""

import enum
import math
import pathlib
import sys

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS

from mmcdnv2.checkpoint import load_checkpoint
from mmcdnv2.errors import InputError, UntrustedError

# The oldest is read by an unpickler of our own.
VERSIONS = sorted({'2.1.2', torch.__version__})
PLAIN = np.typecodes['AllInteger'] + np.typecodes['AllFloat'] + '?'
ARRAYS = {
    **{code: np.ones((2, 3), code) for code in PLAIN},
    'text': np.array(['car', 'bus']),
    'bytes': np.array([b'car', b'bus']),
    'date': np.array(['2024-02-29'], 'M8[D]'),
    'time': np.array([[3]], 'm8[25s]'),
    'any time': np.array([3], 'm8'),
    'big-endian': np.arange(3, dtype='>u2'),
    'columns': np.asfortranarray(np.arange(6).reshape(2, 3)),
    'empty': np.zeros((0, 3), np.uint8),
}


class Colour(enum.Enum):
    RED = 1


def save(path, **meta):
    torch.save(dict(meta=meta, state_dict=dict(w=torch.ones(2))), path)
    return path


@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize('name', ARRAYS)
def test_numpy_arrays_and_scalars_are_data(tmp_path, monkeypatch, version, name):
    monkeypatch.setattr(torch, '__version__', version)
    array = ARRAYS[name]
    scalars = list(array.ravel()[:1])
    path = save(tmp_path / 'a.pth', array=array, scalars=scalars)
    meta = load_checkpoint(path)['meta']
    # NumPy itself reads them in the machine's byte order.
    assert meta['array'].dtype == array.dtype.newbyteorder('=')
    assert np.array_equal(meta['array'], array)
    assert [each.dtype for each in meta['scalars']] == [each.dtype for each in scalars]
    assert meta['scalars'] == scalars


@pytest.mark.parametrize('version', VERSIONS)
def test_paths_are_data(tmp_path, monkeypatch, version):
    monkeypatch.setattr(torch, '__version__', version)
    path = save(tmp_path / 'a.pth', root=pathlib.Path('data/coco'))
    assert load_checkpoint(path)['meta']['root'] == pathlib.Path('data/coco')


@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize('is_zip', [True, False])
@pytest.mark.parametrize(
    ('thing', 'name'),
    [
        (Colour.RED, 'test_checkpoint.Colour'),
        (math.sqrt, 'math.sqrt'),
        (len, 'builtins.len'),
        (pathlib.os.system, 'posix.system'),
        (np.array([None, 1]), ''),
        (np.zeros(2, [('x', 'f4')]), ''),
    ],
)
def test_other_objects_need_trust(tmp_path, monkeypatch, version, is_zip, thing, name):
    monkeypatch.setattr(torch, '__version__', version)
    path = tmp_path / 'a.pth'
    content = dict(state_dict={}, meta=dict(thing=thing))
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UntrustedError, match=f'holds more than tensors.*{name}.*trust'):
        load_checkpoint(path)
    assert 'thing' in load_checkpoint(path, trust=True)['meta']
    # Half a file is damaged, whatever it holds.
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for trust in (False, True):
        with pytest.raises(InputError, match='is damaged') as raised:
            load_checkpoint(path, trust)
        assert type(raised.value) is InputError


def test_a_trusted_class_that_is_not_here(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.pth', colour=Colour.RED)
    monkeypatch.delattr(sys.modules[Colour.__module__], 'Colour')
    with pytest.raises(InputError, match='cannot be loaded: AttributeError:.*Colour'):
        load_checkpoint(path, trust=True)


def test_names_of_classes_in_an_array(tmp_path):
    names = np.array(['car', 'bus'])
    path = save(tmp_path / 'a.pth', dataset_meta=dict(classes=names, sizes=names))
    load_checkpoint(path)
    path = save(tmp_path / 'a.pth', dataset_meta=dict(classes=np.arange(2)))
    with pytest.raises(InputError, match='list of names was expected'):
        load_checkpoint(path)


def built_by(registry, skipped=()):
    """Names and classes of a registry of MMEngine and of the packages on top of it."""
    modules = dict(registry.module_dict)
    for package in registry.children.values():
        package.import_from_location()
        modules.update(package.module_dict)
    return sorted(set(modules.items()) - {(each, modules[each]) for each in skipped})


# Arguments without which a scheduler cannot be built, by the beginning of its name.
SCHEDULES = dict(
    CosineAnnealing=dict(T_max=9),
    CosineRestart=dict(periods=[2, 7], restart_weights=[1, 0.5], eta_min=0),
    Exponential=dict(gamma=0.9),
    MultiStep=dict(milestones=[2]),
    OneCycle=dict(eta_max=0.2, total_steps=9),
    QuadraticWarmup=dict(end=9),
    ReduceOnPlateau=dict(patience=1),
    Step=dict(step_size=2),
)


def build_scheduler(name, kind, **more):
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9, weight_decay=0.1
    )
    wrapper = OptimWrapper(optimizer)
    for begin, options in SCHEDULES.items():
        more.update(options if name.startswith(begin) else {})
    if name.endswith('ParamScheduler'):
        more['param_name'] = 'lr'
    return wrapper, kind(wrapper, **more)


def step_scheduler(wrapper, scheduler, number):
    values = []
    for _ in range(number):
        wrapper.optimizer.step()
        metrics = ({'loss': 1.0},) if 'Plateau' in type(scheduler).__name__ else ()
        scheduler.step(*metrics)
        values.append(scheduler.get_last_value())
    return values


@pytest.mark.parametrize(('name', 'kind'), built_by(PARAM_SCHEDULERS))
@pytest.mark.parametrize('version', VERSIONS)
def test_states_of_schedulers(tmp_path, monkeypatch, version, name, kind):
    wrapper, scheduler = build_scheduler(name, kind)
    step_scheduler(wrapper, scheduler, 3)
    states = dict(
        optimizer=wrapper.state_dict(), param_schedulers=[scheduler.state_dict()]
    )
    path = tmp_path / 'epoch_3.pth'
    torch.save(dict(states, state_dict={}, meta={}), path)
    monkeypatch.setattr(torch, '__version__', version)
    content = load_checkpoint(path)
    resumed_wrapper, resumed = build_scheduler(name, kind)
    resumed_wrapper.load_state_dict(content['optimizer'])
    resumed.load_state_dict(content['param_schedulers'][0])
    expected = step_scheduler(wrapper, scheduler, 4)
    assert step_scheduler(resumed_wrapper, resumed, 4) == expected


def test_another_strategy_of_one_cycle(tmp_path):
    kind = PARAM_SCHEDULERS.get('OneCycleLR')
    _, scheduler = build_scheduler('OneCycleLR', kind, anneal_strategy='linear')
    path = save(tmp_path / 'a.pth', state=scheduler.state_dict())
    loaded = load_checkpoint(path)['meta']['state']
    assert loaded['anneal_func'] is OneCycleParamScheduler._annealing_linear
    # No other function of it.
    with pytest.raises(UntrustedError):
        load_checkpoint(save(path, thing=OneCycleParamScheduler.step))


@pytest.mark.parametrize(
    ('name', 'kind'), built_by(OPTIMIZERS, ['Optimizer', 'ZeroRedundancyOptimizer'])
)
@pytest.mark.parametrize('version', VERSIONS)
def test_states_of_optimizers(tmp_path, monkeypatch, version, name, kind):
    def build():
        torch.manual_seed(0)
        model = torch.nn.Embedding(4, 4, sparse=name == 'SparseAdam')
        return model, kind(model.parameters(), lr=0.1)

    def step(model, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = model(torch.arange(4)).square().sum()
            loss.backward()
            return loss

        if name == 'LBFGS':
            optimizer.step(closure)
            return
        closure()
        optimizer.step()

    model, optimizer = build()
    step(model, optimizer)
    path = tmp_path / 'epoch_1.pth'
    content = dict(state_dict=model.state_dict(), optimizer=optimizer.state_dict())
    torch.save(content, path)
    monkeypatch.setattr(torch, '__version__', version)
    content = load_checkpoint(path)
    resumed_model, resumed = build()
    resumed_model.load_state_dict(content['state_dict'])
    resumed.load_state_dict(content['optimizer'])
    for each in ((model, optimizer), (resumed_model, resumed)):
        step(*each)
    assert torch.equal(resumed_model.weight, model.weight)
