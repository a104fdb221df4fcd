"""What a checkpoint may hold, and how damage is told from distrust."""

import enum
import math
import pathlib
import sys

import numpy as np
import pytest
import torch

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
