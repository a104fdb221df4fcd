"""Bad checkpoints and exported files, made of good ones by seeded generators.

As a script it makes all of them, has each read in this process, and prints a table:

    python tests/bad_files.py

``tests/test_bad_files.py`` runs a sample of the same, and all in "make test-long".
"""

import hashlib
import io
import json
import os
import pickle
import random
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

PERCENT = range(100)
DIGITS = 64


class Writer:
    """What writes a file when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return Path.touch, (Path(self.place),)


class Shell(Writer):
    """The same by a command."""

    def __reduce__(self):
        return os.system, (f'touch {self.place}',)


def packed(content, **options):
    """What torch.save writes, as bytes."""
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def flipped(content, places):
    """Give copies with one bit changed, each by its place."""
    for place, bit in places:
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        yield f'byte {place} bit {bit}', bytes(changed)


def truncated(content):
    """Give the beginnings of a file, by percent."""
    for percent in PERCENT:
        yield f'{percent} %', content[: len(content) * percent // 100]


def flipped_records(content, seed=0):
    """Flip bits of a checkpoint: of its pickle, its tensors and what is around."""
    rng = random.Random(seed)
    archive = zipfile.ZipFile(io.BytesIO(content))
    data, pickled = [], []
    for each in archive.infolist():
        # After a header of 30 bytes, a name and what pads it.
        sizes = content[each.header_offset + 26 : each.header_offset + 30]
        begin = each.header_offset + 30
        begin += int.from_bytes(sizes[:2], 'little') + int.from_bytes(
            sizes[2:], 'little'
        )
        place = range(begin, begin + each.file_size)
        (pickled if each.filename.endswith('data.pkl') else data).extend(place)
    known = {*data, *pickled}
    around = [place for place in range(len(content)) if place not in known]
    # The directory at the end is small beside the padding.
    end = range(content.rindex(b'PK\x01\x02'), len(content))
    for name, places, count in (
        ('tensors', data, 40),
        ('pickle', pickled, 40),
        ('headers', around, 20),
        ('directory', end, 20),
    ):
        chosen = [(rng.choice(places), rng.randrange(8)) for _ in range(count)]
        for case, changed in flipped(content, chosen):
            yield f'{name}, {case}', changed


def strange_contents(good, other):
    """Give what is in a file, but no checkpoint of the network.

    Args:
        good (dict): A finished checkpoint of the network.
        other (dict): One of another.
    """
    weights = good['state_dict']
    some = next(name for name in weights if name.endswith('.weight'))
    mask = next(name for name in weights if name.endswith('.mask'))

    def having(name, value):
        return dict(good, state_dict={**weights, name: value})

    less = OrderedDict(list(weights.items())[1:])
    yield 'of another kind', other
    yield 'weights of another kind', other['state_dict']
    yield 'another prefix', {f'student.{k}': v for k, v in weights.items()}
    yield 'empty', {}
    yield 'empty state dict', dict(good, state_dict={})
    yield 'a list', [good]
    yield 'a tensor', torch.ones(3)
    yield 'None', None
    yield 'a number', 5
    yield 'nested', dict(meta={}, state_dict=good)
    yield 'a list of weights', dict(good, state_dict=list(weights.items()))
    yield 'numbers', dict(good, state_dict=dict.fromkeys(weights, 1.0))
    yield 'texts', dict(good, state_dict=dict.fromkeys(weights, 'x'))
    yield 'numbers as names', dict(good, state_dict=dict(enumerate(weights.values())))
    yield 'state dict None', dict(good, state_dict=None)
    yield 'one is missing', dict(good, state_dict=less)
    yield 'one more', having('backbone.more', torch.ones(1))
    yield 'one is a number', having(some, 3.0)
    yield 'one is None', having(some, None)
    yield 'another shape', having(some, weights[some][:1])
    yield 'another rank', having(some, weights[some].flatten())
    yield 'int weights', having(some, weights[some].int())
    yield 'bool weights', having(some, weights[some] > 0)
    yield 'complex weights', having(some, weights[some].to(torch.complex64))
    yield 'sparse weights', having(some, weights[some].flatten(1).to_sparse())
    yield 'NaN', having(some, torch.full_like(weights[some], float('nan')))
    one = weights[some].clone()
    one.view(-1)[-1] = float('nan')
    yield 'one NaN', having(some, one)
    yield 'infinite', having(some, torch.full_like(weights[some], float('inf')))
    for name, meta in (
        ('a list', [1]),
        ('a text', 'x'),
        ('names a number', {5: 6}),
        ('dataset_meta a list', dict(dataset_meta=['a'])),
        ('classes a number', dict(dataset_meta=dict(classes=5))),
        ('classes numbers', dict(dataset_meta=dict(classes=[1, 2]))),
    ):
        yield f'meta: {name}', dict(good, meta=meta)
    kept = weights[mask]
    empty = kept.clone()
    empty[0] = False
    yield 'mask: a group keeps none', having(mask, empty)
    yield 'mask: keeps none', having(mask, torch.zeros_like(kept))
    yield 'mask: halves', having(mask, kept.float() / 2)
    yield 'mask: twos', having(mask, kept.int() * 2)
    yield 'mask: NaN', having(mask, torch.full(kept.shape, float('nan')))
    yield 'mask: another shape', having(mask, kept[:1])
    yield 'mask: other groups', having(mask, kept.reshape(kept.size(0) * 2, -1))
    yield 'mask: a number', having(mask, 1)


def unfinished_contents(good):
    """Give checkpoints that may be trained on, but not condensed."""
    weights = good['state_dict']
    mask = next(name for name in weights if name.endswith('.mask'))
    whole, one = torch.ones_like(weights[mask]), weights[mask].clone()
    one[0] = True
    yield 'mask: keeps all', dict(good, state_dict={**weights, mask: whole})
    yield 'mask: a group keeps all', dict(good, state_dict={**weights, mask: one})


def strange_indices(condensed):
    """Give condensed checkpoints with an index that cannot be."""
    weights = condensed['state_dict']
    for name in (n for n in weights if n.endswith('.index')):
        good = weights[name]
        changes = {
            'too large': good + 10**6,
            'one too large': torch.cat([good[:-1], good.new_tensor([2**40])]),
            'negative': -good - 1,
            'twice': good[:1].expand_as(good).clone(),
            'floats': good.float(),
            'bools': good > 0,
            'short': good[:-1],
            'a matrix': good[None],
        }
        for what, value in changes.items():
            state_dict = {**weights, name: value}
            yield f'{name}: {what}', dict(condensed, state_dict=state_dict)


def with_code(good, place):
    """Give files that would make a file when they are read.

    Args:
        good (dict): A checkpoint.
        place (str): What they would make.
    """
    weights = good['state_dict']
    for name, thing in (('touch', Writer(place)), ('system', Shell(place))):
        contents = {
            'beside': dict(good, extra=thing),
            'meta': dict(good, meta=dict(dataset_meta=thing)),
            'weight': dict(good, state_dict={**weights, 'x': thing}),
            'alone': thing,
        }
        for where, content in contents.items():
            yield f'{name}: {where}', packed(content)
            old = packed(content, _use_new_zipfile_serialization=False)
            yield f'{name}: {where}, old format', old
        yield f'{name}: plain pickle', pickle.dumps(dict(good, extra=thing))
    # Bytes that are touch() by their name only.
    for protocol, content in enumerate((_escape, _patch_class, _instance)):
        yield f'opcodes {protocol}', _archive(content(place))
        yield f'opcodes {protocol}, old format', _old_format(content(place))
    yield 'script', _script(place)


def altered_pickles(content, count, seed=0):
    """Alter the pickle of a checkpoint here and there, with checksums that fit.

    Args:
        content (bytes): The checkpoint.
        count (int): How many to give.
        seed (int): Of what is altered.
    """
    rng = random.Random(seed)
    archive = zipfile.ZipFile(io.BytesIO(content))
    records = {each.filename: archive.read(each) for each in archive.infolist()}
    name = next(each for each in records if each.endswith('data.pkl'))
    opcodes = [getattr(pickle, each) for each in pickle.__all__ if each.isupper()]
    codes = [each[0] for each in opcodes if isinstance(each, bytes) and len(each) == 1]
    for number in range(count):
        pickled = bytearray(records[name])
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(pickled))
            kind = rng.randrange(4)
            if kind == 0:
                pickled[place] = rng.choice(codes)
            elif kind == 1:
                pickled[place] ^= 1 << rng.randrange(8)
            elif kind == 2:
                del pickled[place : place + rng.randint(1, 20)]
            else:
                source = rng.randrange(len(pickled))
                pickled[place:place] = pickled[source : source + rng.randint(1, 60)]
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, 'w') as altered:
            for each, record in records.items():
                altered.writestr(each, bytes(pickled) if each == name else record)
        yield f'alteration {number}', stream.getvalue()


def _text(text):
    return b'X' + len(text.encode()).to_bytes(4, 'little') + text.encode()


def _call(function, *arguments):
    return function + b'(' + b''.join(arguments) + b'tR'


_BUFFER = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
_GETATTR = b'cbuiltins\ngetattr\n'


def _escape(place):
    """From a harmless class to exec, by attributes of attributes."""
    get = _call(_GETATTR, _BUFFER, _text('__getattribute__'))
    method = _call(_GETATTR, _BUFFER, _text('mean'))
    scope = _call(get, method, _text('__globals__'))
    builtins = _call(_call(get, scope, _text('__getitem__')), _text('__builtins__'))
    run = _call(_call(get, builtins, _text('__getitem__')), _text('exec'))
    code = _call(run, _text(f'open({place!r}, "w").close()'))
    return b'\x80\x02}(' + _text('state_dict') + code + b'u.'


def _patch_class(place):
    """Attributes set on a class, by a state with slots."""
    slots = b'}' + _text('dump_patches') + b'\x88s'
    changed = _BUFFER + b'N' + slots + b'\x86b'
    return b'\x80\x02}' + _text('x') + changed + b's.'


def _instance(place):
    """The opcode of old pickles for an instance."""
    return b'(' + _text(f'touch {place}') + b'iposix\nsystem\n.'


def _archive(pickled):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        archive.writestr('archive/data.pkl', pickled)
        archive.writestr('archive/version', '3\n')
    return stream.getvalue()


def _old_format(pickled):
    head = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
    return b''.join(pickle.dumps(each, 2) for each in head) + pickled


class Script(torch.nn.Module):
    """A script that writes a file when it is loaded."""

    def __init__(self, place):
        super().__init__()
        self.place = str(place)

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.place

    @torch.jit.export
    def __setstate__(self, place: str):
        self.place = place
        self.training = False
        torch.save(torch.ones(1), place)


def _script(place):
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(Script(place)), stream)
    return stream.getvalue()


def signed(model):
    """An exported file's bytes, with the checksum that fits."""
    kept = [each for each in model.metadata_props if each.key != 'mmcdnv2.checksum']
    texts = [(each.key, each.value) for each in kept]
    del model.metadata_props[:]
    for key, value in [*texts, ('mmcdnv2.checksum', '0' * DIGITS)]:
        model.metadata_props.add(key=key, value=value)
    content = model.SerializeToString()
    return content[:-DIGITS] + hashlib.sha256(content).hexdigest().encode()


def flipped_anywhere(content, seed=0):
    """Flip bits of an exported file, one in the digits of its checksum too."""
    rng = random.Random(seed)
    places = [(rng.randrange(len(content)), rng.randrange(8)) for _ in range(80)]
    places += [(-rng.randrange(1, 300), rng.randrange(8)) for _ in range(20)]
    yield from flipped(content, places)


def strange_models(content):
    """Give exported files with right checksums and wrong contents."""
    import onnx

    def changed(key, text):
        model = onnx.ModelProto.FromString(content)
        kept = [each for each in model.metadata_props if each.key != f'mmcdnv2.{key}']
        texts = [(each.key, each.value) for each in kept]
        del model.metadata_props[:]
        for name, value in [*texts, *([(f'mmcdnv2.{key}', text)] if text else [])]:
            model.metadata_props.add(key=name, value=value)
        return signed(model)

    keys = [
        'format',
        'task',
        'raw',
        'operators',
        'classes',
        'input',
        'preprocess',
        'version',
    ]
    for key in [*keys, 'version']:
        yield f'{key}: missing', changed(key, None)
    for key in ('format', 'raw', 'classes', 'input', 'preprocess'):
        yield f'{key}: no JSON', changed(key, '{[')
        yield f'{key}: nested deeply', changed(key, '[' * 100000)
        yield f'{key}: a huge number', changed(key, '9' * 5000)
    texts = {
        each.key: each.value for each in onnx.load_from_string(content).metadata_props
    }
    given = json.loads(texts['mmcdnv2.input'])
    for size in ([10**9, 10**9], [-4, 4], [0, 0], ['4', '4'], [4], [1e400, 4], 5, None):
        value = json.dumps(dict(given, size=size))
        yield f'size {size}', changed('input', value)
    yield 'dtype', changed('input', json.dumps(dict(given, dtype='int4')))
    yield 'channels', changed('input', json.dumps(dict(given, channel_order='HSV')))
    for step in (
        dict(op='pad', size=[10**9, 10**9], value=[0, 0, 0]),
        dict(op='pad', size=[64, 64], value=[10**30, 0, 0]),
        dict(op='pad', size=[64, 64], value=[]),
        dict(op='crop', size=[-1, 5]),
        dict(op='resize', mode='fit', long=1e400, short=5),
        dict(op='resize', mode='stretch', size=[10**9, 1]),
        dict(op='flip'),
        dict(op=['pad']),
    ):
        if step['op'] == 'resize':
            step.update(interpolation='bilinear', antialias=False)
        yield f'step {step}', changed('preprocess', json.dumps([step]))
    yield 'task', changed('task', 'poses')
    yield 'raw', changed('raw', 'true')
    for where in ('../weights.bin', '/etc/passwd', 'weights.bin'):
        tensor = onnx.TensorProto(name='w', data_type=1, dims=[4])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key='location', value=where)
        model = onnx.ModelProto.FromString(content)
        model.graph.initializer.append(tensor)
        yield f'weights in {where}', signed(model)
        model = onnx.ModelProto.FromString(content)
        node = onnx.helper.make_node('Constant', [], ['w'], value=tensor)
        model.graph.node.append(node)
        yield f'a constant in {where}', signed(model)
        inner = onnx.helper.make_graph([node], 'inner', [], [])
        model.graph.node[-1].CopyFrom(
            onnx.helper.make_node('If', ['x'], ['y'], then_branch=inner)
        )
        yield f'a constant of a branch in {where}', signed(model)
    model = onnx.ModelProto.FromString(content)
    model.graph.node[0].op_type = 'Unheard'
    yield 'an unknown operator', signed(model)
    model = onnx.ModelProto.FromString(content)
    del model.graph.node[0]
    yield 'a node is missing', signed(model)
    yield 'no metadata', onnx.load_from_string(content).graph.SerializeToString()
    yield 'a pickle', pickle.dumps(dict(a=1))
    yield 'a checkpoint', packed(dict(state_dict={}))
    yield 'a text', b'no model'
    yield 'empty', b''


def main():
    """Make all files, read each, and print what came of them."""
    import pytest

    here = Path(__file__).parent / 'test_bad_files.py'
    options = ['-m', '', '-s', '-p', 'no:cacheprovider', '-k', 'all_of']
    sys.exit(pytest.main([str(here), *options]))


if __name__ == '__main__':
    main()
