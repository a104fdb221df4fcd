"""The example in C++ finds what the Python package finds."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT
from mmcdnv2_runtime import Detector
from PIL import Image

# Debian 13's libonnxruntime-dev; else ours has the few functions that are needed.
HEADERS = Path('/usr/include/onnxruntime')
STAND_IN = Path(__file__).parent / 'stand_in'
# It compiles in half the time.
DEBUG = '-DCMAKE_BUILD_TYPE=Debug'
STEP = dict(op='resize', mode='fit', long=96, short=64)
STEP.update(interpolation='bilinear', antialias=False)


@pytest.fixture(scope='session')
def program(tmp_path_factory):
    """The example, built by its CMake file with the wheel's ONNX Runtime."""
    for tool in ('cmake', 'make', 'c++'):
        if shutil.which(tool) is None:
            pytest.skip(f'{tool} is not installed')
    capi = Path(onnxruntime.__file__).parent / 'capi'
    libraries = sorted(capi.glob('libonnxruntime.so.*'))
    if not libraries:
        pytest.skip(f'onnxruntime {onnxruntime.__version__} brings no C library')
    root = tmp_path_factory.mktemp('onnxruntime')
    (root / 'lib').mkdir()
    for name in ('libonnxruntime.so', 'libonnxruntime.so.1'):
        (root / 'lib' / name).symlink_to(libraries[0])
    (root / 'include').symlink_to(HEADERS if HEADERS.exists() else STAND_IN)
    build = root / 'build'
    source = ROOT / 'runtime' / 'example'
    flags = '-Wall -Wextra -Werror'
    for command in (
        ['cmake', '-S', source, '-B', build, f'-DONNXRUNTIME_ROOT={root}', DEBUG],
        ['cmake', '--build', build],
    ):
        result = subprocess.run(
            [str(part) for part in command],
            env=dict(os.environ, CXXFLAGS=flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout
    return build / 'detect'


def run(program, *arguments):
    return subprocess.run(
        [str(part) for part in (program, *arguments)], capture_output=True, text=True
    )


def found_by(result):
    """Names and numbers, one row for each box."""
    assert (result.returncode, result.stderr) == (0, '')
    rows = [line.rsplit(' ', 5) for line in result.stdout.splitlines()]
    names = [row[0] for row in rows]
    return names, np.array([[float(cell) for cell in row[1:]] for row in rows])


@pytest.fixture
def make_reader(make_detector, sign):
    """A detector whose scores are pixels, so that each of them is compared."""
    onnx = pytest.importorskip('onnx')

    def make(places, **changes):
        count = len(places)
        path = make_detector(
            [[0, 0, 96, 64]] + [[10, 5, 30, 25.5]] * (count - 1),
            [0] * count,
            [index % 4 for index in range(count)],
            **changes,
        )
        model = onnx.load(path)
        # The checksum, which sign adds.
        model.metadata_props.pop()
        graph = model.graph
        (node,) = [node for node in graph.node if 'scores' in node.output]
        graph.node.remove(node)
        # Channel, row and column of the first image.
        index = np.array([[0, *place] for place in places + [[0, 0, 0]] * 2])
        graph.initializer.append(onnx.numpy_helper.from_array(index, 'places'))
        scale = np.array(1 / 255, np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(scale, 'unit'))
        graph.initializer.append(
            onnx.numpy_helper.from_array(np.array([1, count + 2]), 'shape_of_scores')
        )
        make_node = onnx.helper.make_node
        graph.node.extend(
            [
                make_node('Cast', ['images'], ['as_float'], to=1),
                make_node('GatherND', ['as_float', 'places'], ['gathered']),
                make_node('Mul', ['gathered', 'unit'], ['flat']),
                make_node('Reshape', ['flat', 'shape_of_scores'], ['scores']),
            ]
        )
        path.write_bytes(sign(model))
        return path

    return make


@pytest.mark.parametrize('kind', ['RGB', 'L'])
@pytest.mark.parametrize(
    ('order', 'dtype', 'steps', 'size'),
    [
        ('BGR', 'uint8', [STEP, dict(op='pad', size=[64, 96], value=[9, 8, 7])], 7),
        ('RGB', 'float32', [dict(STEP, mode='stretch', size=[64, 96])], 3),
        ('BGR', 'float32', [], 0),
    ],
)
def test_it_finds_the_same(
    program, make_reader, photographs, tmp_path, order, dtype, steps, size, kind
):
    rng = np.random.default_rng(size)
    height, width = (64, 96) if not steps else rng.integers((70, 200), (200, 300))
    image = Image.fromarray(photographs[1]).crop((0, 0, width, height)).convert(kind)
    path = tmp_path / ('image.ppm' if kind == 'RGB' else 'image.pgm')
    image.save(path)
    places = [[int(rng.integers(side)) for side in (3, 64, 96)] for _ in range(400)]
    # What was padded is in the corner.
    places[:3] = [[channel, 63, 95] for channel in range(3)]
    model = make_reader(
        places, steps=steps, channel_order=order, dtype=dtype, size=[64, 96]
    )
    found = Detector(model)(path)
    names, rows = found_by(run(program, model, path, '-', 1, 0))
    assert len(rows) == len(found) == 400
    # Python's are sorted.
    ranked = np.argsort(-rows[:, 0], kind='stable')
    assert found.names == [names[index] for index in ranked]
    np.testing.assert_allclose(rows[ranked, 0], found.scores, atol=6e-5)
    np.testing.assert_allclose(rows[ranked, 1:], found.boxes, atol=0.06)
    assert len(set(found.scores.tolist())) > 50


def test_native_operators_run(
    program, installed, make_detector, native_stem, sign, photographs, tmp_path
):
    onnx = pytest.importorskip('onnx')
    # Two more fill up.
    count = native_stem.channels - 2
    boxes, zeros = [[0, 0, 40, 30]] * count, [0] * count
    path = make_detector(boxes, zeros, zeros, operators='native')
    model = onnx.load(path)
    model.metadata_props.pop()
    graph = model.graph
    (node,) = [node for node in graph.node if 'scores' in node.output]
    graph.node.remove(node)
    unit = onnx.numpy_helper.from_array(np.float32(0.01), 'unit')
    graph.initializer.extend([*native_stem.initializers, unit])
    last = onnx.helper.make_node('Mul', ['pooled', 'unit'], ['scores'])
    graph.node.extend([*native_stem.nodes, last])
    model.opset_import.append(native_stem.opset)
    path.write_bytes(sign(model))
    pixels = photographs[0][:96, :128]
    image = tmp_path / 'image.ppm'
    Image.fromarray(pixels).save(image)
    library = installed / 'mmcdnv2_runtime' / 'libmmcdnv2_onnxruntime.so'
    scores = native_stem.pooled(pixels)[:count] * 0.01
    assert np.ptp(scores) > 0.1
    for threads in (1, 2):
        _, rows = found_by(run(program, path, image, library, threads, -9))
        np.testing.assert_allclose(rows[:, 0], scores, atol=1e-4)
    # Without the library ONNX Runtime knows no such operator.
    result = run(program, path, image, '-')
    assert result.returncode == 1 and 'mmcdnv2' in result.stderr


def test_its_errors(program, make_detector, make_classifier, tmp_path):
    path = tmp_path / 'image.ppm'
    Image.new('RGB', (48, 32)).save(path)
    detector = make_detector([[0, 0, 1, 1]], [0.5], [0])
    for arguments, message in (
        ((make_classifier(), path, '-'), 'a detector with decoded boxes was expected'),
        ((detector, make_classifier(), '-'), 'no binary PPM or PGM'),
        ((detector, tmp_path / 'none.ppm', '-'), 'no binary PPM or PGM'),
        ((detector, path, tmp_path / 'none.so'), 'none.so'),
        ((tmp_path / 'none.onnx', path, '-'), 'none.onnx'),
    ):
        result = run(program, *arguments)
        assert (result.returncode, result.stdout) == (1, '')
        assert message in result.stderr
    path.write_bytes(path.read_bytes()[:-1])
    assert 'it ends too early' in run(program, detector, path, '-').stderr
    path.write_bytes(b'P6\n# a comment\n1 1\n255\n\0\0\0')
    assert found_by(run(program, detector, path, '-'))[0] == ['blue']
    assert run(program).returncode == 2
