"""Small files with the metadata of exported ones, of standard operators."""

import hashlib
import json
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from kernel_networks import condensed

RUNTIME = ROOT / 'runtime'
# The package's Python part needs no build.
sys.path.insert(0, str(RUNTIME))
DIGITS = 64


def signed(model):
    """Write the checksum as the exporter does: the last 64 bytes."""
    model.metadata_props.add(key='mmcdnv2.checksum', value='0' * DIGITS)
    content = model.SerializeToString()
    assert content.endswith(b'0' * DIGITS)
    return content[:-DIGITS] + hashlib.sha256(content).hexdigest().encode()


def described(model, task, **changes):
    spec = dict(
        dtype=changes.pop('dtype', 'uint8'),
        layout='NCHW',
        channel_order=changes.pop('channel_order', 'BGR'),
        size=changes.pop('size', [32, 48]),
        dynamic=changes.pop('dynamic', ['batch', 'height', 'width']),
    )
    values = dict(
        format='1',
        version='0.1.0',
        task=task,
        raw='false',
        operators='standard',
        config='toy',
        weights_sha256='0' * DIGITS,
        classes=json.dumps(['blue', 'green', 'red']),
        input=json.dumps(spec),
        preprocess=json.dumps(changes.pop('steps', [])),
    )
    values.update(changes)
    for key, value in values.items():
        if value is not None:
            model.metadata_props.add(key=f'mmcdnv2.{key}', value=value)


def make_model(nodes, outputs, initializers, dtype):
    helper = pytest.importorskip('onnx').helper
    from onnx import TensorProto, numpy_helper

    kind = {'uint8': TensorProto.UINT8, 'float32': TensorProto.FLOAT}[dtype]
    images = helper.make_tensor_value_info('images', kind, ['N', 3, 'H', 'W'])
    outputs = [
        helper.make_tensor_value_info(
            name, dict(f=TensorProto.FLOAT, i=TensorProto.INT64)[letter], shape
        )
        for name, letter, shape in outputs
    ]
    graph = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes],
        'toy',
        [images],
        outputs,
        [numpy_helper.from_array(np.array(v), k) for k, v in initializers.items()],
    )
    opsets = [helper.make_opsetid('', 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.fixture
def sign():
    """Write a model with its checksum."""
    return signed


@pytest.fixture
def add_metadata():
    """Write an exported file's metadata into a model."""
    return described


@pytest.fixture
def make_classifier(tmp_path):
    """Write a classifier that sees which channel is the brightest."""

    def make(name='classifier.onnx', **changes):
        model = make_model(
            [
                ('Cast', ['images'], ['float'], dict(to=1)),
                ('ReduceMean', ['float'], ['mean'], dict(axes=[2, 3], keepdims=0)),
                ('Div', ['mean', 'ten'], ['logits'], {}),
                ('Softmax', ['logits'], ['scores'], dict(axis=1)),
            ],
            [('scores', 'f', ['N', 3])],
            dict(ten=np.float32(10)),
            changes.get('dtype', 'uint8'),
        )
        described(model, changes.pop('task', 'classification'), **changes)
        path = tmp_path / name
        path.write_bytes(signed(model))
        return path

    return make


@pytest.fixture
def make_detector(tmp_path):
    """Write a detector that finds the boxes that it is told, in any image."""

    def make(boxes, scores, labels, masks=None, name='detector.onnx', **changes):
        count = len(boxes)
        filled = dict(
            boxes=np.zeros((count + 2, 4), np.float32),
            scores=np.zeros(count + 2, np.float32),
            labels=np.full(count + 2, -1, np.int64),
        )
        for key, value in (('boxes', boxes), ('scores', scores), ('labels', labels)):
            filled[key][:count] = np.array(value).reshape(filled[key][:count].shape)
        filled['counts'] = np.array(count, np.int64)
        if masks is not None:
            blank = np.zeros((2, 28, 28), np.float32)
            filled['masks'] = np.concatenate([masks, blank]).astype(np.float32)
        # N times the same: all of it by the batch's size, through its shape.
        nodes = [
            ('Shape', ['images'], ['shape'], dict(end=1)),
        ]
        outputs, initializers = [], {}
        for key, value in filled.items():
            initializers[f'{key}_1'] = value[None]
            initializers[f'{key}_rest'] = np.array(value.shape, np.int64)
            nodes += [
                ('Concat', ['shape', f'{key}_rest'], [f'{key}_shape'], dict(axis=0)),
                ('Expand', [f'{key}_1', f'{key}_shape'], [key], {}),
            ]
            letter = 'i' if value.dtype == np.int64 else 'f'
            outputs.append((key, letter, ['N', *value.shape]))
        model = make_model(nodes, outputs, initializers, changes.get('dtype', 'uint8'))
        described(model, changes.pop('task', 'detection'), **changes)
        path = tmp_path / name
        path.write_bytes(signed(model))
        return path

    return make


@pytest.fixture(scope='session')
def photographs():
    """Two photographs, (427, 640, 3)."""
    return pytest.importorskip('sklearn.datasets').load_sample_images().images


@pytest.fixture(scope='session')
def build_wheel():
    """Build a wheel into a folder, as "make runtime-wheels" does."""

    def build(folder, machine):
        script = ROOT / '.dev' / 'build_runtime_wheels.py'
        result = subprocess.run(
            [sys.executable, str(script), '--out', str(folder), machine],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout
        (wheel,) = folder.glob('*.whl')
        return wheel

    return build


@pytest.fixture(scope='session')
def wheel(build_wheel, tmp_path_factory):
    """The wheel for this machine."""
    machine = platform.machine()
    if machine not in ('x86_64', 'aarch64') or shutil.which('c++') is None:
        pytest.skip('there is no compiler, or no wheel for this machine')
    return build_wheel(tmp_path_factory.mktemp('dist'), machine)


@pytest.fixture(scope='session')
def installed(wheel, tmp_path_factory):
    """Where the wheel is installed, beside nothing else."""
    target = tmp_path_factory.mktemp('installed')
    command = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index']
    subprocess.run([*command, '--target', str(target), str(wheel)], check=True)
    return target


class NativeStem:
    """A network's first layer as an operator of ours, from images to pooled."""

    def __init__(self):
        onnx = pytest.importorskip('onnx')
        self.module = condensed().stem
        arguments = self.module._kernel_arguments()
        assert not arguments.norms
        params = [tensor.detach().numpy() for tensor in arguments.tensors()]
        names = [f'p{index}' for index in range(len(params))]
        self.channels = int(arguments.options[0])
        attributes = dict(spec=list(arguments.spec), out_channels=self.channels)
        make_node = onnx.helper.make_node
        self.nodes = [
            make_node('Cast', ['images'], ['x'], to=onnx.TensorProto.FLOAT),
            make_node('Stem', ['x', *names], ['y'], domain='mmcdnv2', **attributes),
            make_node('ReduceMean', ['y'], ['pooled'], axes=[2, 3], keepdims=0),
        ]
        self.initializers = list(map(onnx.numpy_helper.from_array, params, names))
        self.opset = onnx.helper.make_opsetid('mmcdnv2', 1)

    @torch.no_grad()
    def pooled(self, pixels):
        """What PyTorch makes of an image in the order RGB."""
        images = torch.from_numpy(pixels[:, :, ::-1].copy()).permute(2, 0, 1)[None]
        return self.module(images.float()).mean((2, 3))[0].numpy()


@pytest.fixture
def native_stem():
    return NativeStem()
