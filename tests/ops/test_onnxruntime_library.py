"""The ONNX Runtime operators compared with the PyTorch ones on small graphs."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from kernel_networks import ARCHS, condensed

from mmcdnv2.errors import InputError
from mmcdnv2.layers import LGCModule, SFRModule
from mmcdnv2.necks import SEGlobalAveragePooling
from mmcdnv2.ops import library
from mmcdnv2.ops.build import BuildError
from mmcdnv2.ops.onnxruntime_library import THREADS, library_path, session_options

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
try:
    library_path()
except BuildError as error:
    pytest.skip(f'no operators: {error}', allow_module_level=True)

FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
OPTIONS = {
    'Stem': ('out_channels',),
    'DenseBlock': ('pool', 'new_channels'),
    'LearnedGroupConv': ('out_channels',),
    'Reactivate': (),
    'PoolExcite': (),
}
NORM_FIRST, CONV_FIRST = ('norm', 'act', 'conv'), ('conv', 'norm', 'act')
# Symbolic batch size, height and width.
DYNAMIC = ('n', 'h', 'w')


class Node:
    """Builds a graph with one node, its inputs and expected outputs.

    Args:
        kind (str): The operator.
        module (nn.Module): The module that it replaces.
        channels (int): Channels of each input.
    """

    def __init__(self, kind, module, *channels):
        arguments = module._kernel_arguments()
        self.kind = kind
        self.module = module
        self.channels = channels
        self.params = [tensor.detach().numpy() for tensor in arguments.tensors()]
        self.attributes = dict(zip(OPTIONS[kind], map(int, arguments.options)))
        self.attributes['spec'] = list(arguments.spec)
        self.attributes['eps'] = [norm.eps for norm in arguments.norms]
        # Changed by tests to make the node invalid.
        self.given_by_graph = set()
        self.input_type = FLOAT
        self.ranks_known = True

    def shapes(self, size):
        """Return the shapes of the inputs for a batch size, height and width."""
        number, *size = size
        return [(number, channels, *size) for channels in self.channels]

    def inputs(self, *size):
        return [torch.randn(shape) for shape in self.shapes(size)]

    def model(self, size=DYNAMIC):
        """Return a serialised model for a batch size, height and width."""
        helper = onnx.helper
        names = [f'p{i}' for i in range(len(self.params))]
        inputs = [
            helper.make_tensor_value_info(
                f'x{i}', self.input_type, shape if self.ranks_known else None
            )
            for i, shape in enumerate(self.shapes(size))
        ]
        node = helper.make_node(
            self.kind,
            [value.name for value in inputs] + names,
            ['y'],
            name='the node',
            domain='mmcdnv2',
            **{name: value for name, value in self.attributes.items() if value != []},
        )
        initializers = []
        for i, name in enumerate(names):
            param = np.ascontiguousarray(self.params[i])
            initializers.append(onnx.numpy_helper.from_array(param, name))
            if i in self.given_by_graph:
                kind = initializers[-1].data_type
                inputs.append(helper.make_tensor_value_info(name, kind, param.shape))
        output = helper.make_tensor_value_info('y', FLOAT, None)
        graph = helper.make_graph([node], 'graph', inputs, [output], initializers)
        opsets = [helper.make_opsetid('', 17), helper.make_opsetid('mmcdnv2', 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return model.SerializeToString()

    def session(self, size=DYNAMIC, threads=1):
        return session_of(self.model(size), session_options(threads))

    @torch.no_grad()
    def expected(self, inputs):
        if self.kind == 'PoolExcite':
            return self.module(inputs)[0].numpy()
        return self.module(*inputs).numpy()


def session_of(model, options, silent=True):
    # Errors are expected in most tests.
    options.log_severity_level = 4 if silent else 2
    return onnxruntime.InferenceSession(
        model, options, providers=['CPUExecutionProvider']
    )


def run(session, inputs):
    feeds = {f'x{i}': x.numpy() for i, x in enumerate(inputs)}
    return session.run(None, feeds)[0]


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    largest = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * largest)


def prepare(module):
    torch.manual_seed(0)
    randomise(module)
    return module.eval()


def lgc(order, act_cfg=None):
    module = LGCModule(40, 24, 4, order=order, act_cfg=act_cfg, deploy=True)
    return Node('LearnedGroupConv', prepare(module), 40)


def reactivation(order):
    module = SFRModule(12, 20, groups=4, sparse_factor=3, order=order, deploy=True)
    return Node('Reactivate', prepare(module), 20, 12)


def pooling():
    return Node('PoolExcite', prepare(SEGlobalAveragePooling(40, ratio=4)), 40)


def stem():
    return Node('Stem', condensed().stem, 3)


def block(number=1, arch='plain'):
    module = condensed(arch).blocks[number]
    # The first parameter is a norm over all inputs.
    return Node('DenseBlock', module, module._kernel_arguments().tensors()[0].numel())


NODES = {
    'stem': stem,
    'lgc, norm first': partial(lgc, NORM_FIRST, dict(type='ReLU')),
    'lgc, conv first': partial(lgc, CONV_FIRST),
    'reactivation, norm first': partial(reactivation, NORM_FIRST),
    'reactivation, conv first': partial(reactivation, CONV_FIRST),
    'pooling': pooling,
}
for arch in ARCHS:
    for number in range(len(ARCHS[arch]['depths'])):
        NODES[f'block {number} of {arch}'] = partial(block, number, arch)


@pytest.mark.parametrize('threads', [None, 1, 2, 3])
@pytest.mark.parametrize('name', NODES)
def test_matches_pytorch(name, threads):
    node = NODES[name]()
    session = node.session(threads=threads)
    for size in ((1, 32, 48), (2, 31, 25), (3, 18, 37), (1, 5, 2)):
        inputs = node.inputs(*size)
        assert_same(run(session, inputs), node.expected(inputs))


@pytest.mark.parametrize('name', NODES)
def test_a_fixed_size(name):
    node = NODES[name]()
    inputs = node.inputs(2, 12, 9)
    session = node.session((2, 12, 9))
    actual = run(session, inputs)
    assert_same(actual, node.expected(inputs))
    assert tuple(session.get_outputs()[0].shape) == actual.shape


@pytest.mark.parametrize(
    ('make', 'shape'),
    [
        (stem, ['n', 6, 'ceil(h / 2)', 'ceil(w / 2)']),
        (partial(block, 0), ['n', 12, 'h', 'w']),
        (partial(block, 1), ['n', 21, 'floor(h / 2)', 'floor(w / 2)']),
        (partial(lgc, CONV_FIRST), ['n', 24, 'h', 'w']),
        (partial(reactivation, NORM_FIRST), ['n', 20, 'h', 'w']),
        (pooling, ['n', 40]),
    ],
)
def test_symbolic_output_shapes(make, shape):
    assert make().session().get_outputs()[0].shape == shape


@pytest.mark.parametrize(
    ('make', 'known'),
    [(stem, {1: 6}), (block, {}), (pooling, {})],
)
def test_unknown_input_shapes(make, known, capfd):
    node = make()
    node.ranks_known = False
    session = session_of(node.model(), session_options(1), silent=False)
    shape = session.get_outputs()[0].shape
    assert {i: size for i, size in enumerate(shape) if type(size) is int} == known
    # Equal names would mean equal sizes.
    assert len(set(shape)) == len(shape) == (2 if make is pooling else 4)
    inputs = node.inputs(3, 16, 10)
    assert_same(run(session, inputs), node.expected(inputs))
    assert 'Expected shape' not in capfd.readouterr().err


def test_empty_batches_and_maps():
    node = block()
    assert run(node.session(), node.inputs(0, 8, 8)).shape == (0, 21, 4, 4)
    node = reactivation(NORM_FIRST)
    assert run(node.session(), node.inputs(1, 0, 4)).shape == (1, 20, 0, 4)


def test_concurrent_sessions():
    nodes = [NODES[name]() for name in sorted(NODES)]
    sessions = [node.session(threads=1 + i % 2) for i, node in enumerate(nodes)]
    inputs = [node.inputs(2, 15, 12) for node in nodes]
    expected = [node.expected(x) for node, x in zip(nodes, inputs)]
    order = [i for _ in range(20) for i in range(len(nodes))]
    with ThreadPoolExecutor(6) as pool:
        outputs = list(pool.map(lambda i: run(sessions[i], inputs[i]), order))
    for i, actual in zip(order, outputs):
        assert_same(actual, expected[i])


@torch.no_grad()
def test_threads_of_both_backends():
    # Maps of more than a megabyte, whose memory comes from each backend's pool.
    node = block(0, 'wide')
    session, images = node.session(), [node.inputs(1, 96, 112) for _ in range(3)]
    expected = [node.expected(x) for x in images]
    weight = node.module._kernel_arguments().tensors()[0]

    def call(i):
        if i % 2:
            return run(session, images[i % 3])
        if i % 4:
            library.forget(weight)
        return node.expected(images[i % 3])

    with ThreadPoolExecutor(5) as pool:
        outputs = list(pool.map(call, range(120)))
    for i, actual in enumerate(outputs):
        assert_same(actual, expected[i % 3])


def test_sessions_of_the_same_options():
    node, options = stem(), session_options(2)
    model, inputs = node.model(), node.inputs(1, 9, 9)
    for _ in range(2):
        session = session_of(model, options)
        assert_same(run(session, inputs), node.expected(inputs))


def resident():
    """Return the resident memory of this process in bytes."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


def test_sessions_do_not_leak():
    module = LGCModule(512, 512, 2, condense_factor=1, deploy=True)
    good, bad = (Node('LearnedGroupConv', prepare(module), 512) for _ in range(2))
    bad.attributes['out_channels'] = 511
    good, bad, before = good.model(), bad.model(), 0
    for i in range(40):
        session_of(good, session_options(1))
        with pytest.raises(Exception, match='not the stated 511'):
            session_of(bad, session_options(1))
        if i == 7:
            before = resident()
    # A leaked session would hold a megabyte.
    assert resident() - before < 16 << 20


def test_runs_do_not_leak():
    node = reactivation(NORM_FIRST)
    session, inputs = node.session(threads=2), node.inputs(1, 2, 2)
    feeds = {f'x{i}': x.numpy() for i, x in enumerate(inputs)}
    for i in range(12000):
        session.run(None, feeds)
        if i == 2000:
            before = resident()
    # Not even an input's shape.
    assert resident() - before < 1 << 19


def put(attribute, *values):
    def change(node):
        node.attributes[attribute] = list(values)

    return change


def put_number(attribute, value):
    def change(node):
        node.attributes[attribute] = value

    return change


def without(attribute):
    return lambda node: node.attributes.pop(attribute)


def at_spec(position, value):
    def change(node):
        node.attributes['spec'][position] = value

    return change


def replace(position, make):
    def change(node):
        node.params[position] = make(node.params[position])

    return change


def from_graph(node):
    node.given_by_graph.add(2)


def unknown_channels(node):
    node.channels = tuple(f'c{i}' for i in range(len(node.channels)))


def one_index(value):
    def make(index):
        index = index.copy()
        index.flat[-1] = value
        return index

    return make


LARGE = 2**62
BAD_NODES = {
    'weights from the graph': (block, from_graph, 'parameter 2 must be an initializer'),
    'no spec': (block, without('spec'), 'the spec is too short'),
    'floats for a spec': (block, put('spec', 0.5), 'the spec is too short'),
    'a short spec': (block, put('spec', 0, 3, 1), 'the spec is too short'),
    'a long spec': (stem, put('spec', 0, 1), 'the spec is too long'),
    'a flag': (stem, put('spec', 2), '0 or 1 was expected in the spec, got 2'),
    'an activation': (block, at_spec(2, 3), 'unknown activation 3'),
    'no groups': (block, at_spec(1, 0), "LGC's weight does not fit"),
    'negative groups': (block, at_spec(1, -3), "LGC's weight does not fit"),
    'too many groups': (block, at_spec(1, LARGE), "LGC's weight does not fit"),
    'SFR without groups': (
        partial(reactivation, NORM_FIRST),
        at_spec(0, 0),
        'groups must divide 12',
    ),
    'groups of SFR': (
        partial(reactivation, NORM_FIRST),
        at_spec(0, 5),
        'groups must divide 12',
    ),
    'no eps': (block, without('eps'), 'too few eps'),
    'too many eps': (pooling, put('eps', 1e-5), 'too many eps'),
    'too few parameters': (block, lambda node: node.params.pop(), 'too few parameters'),
    'too many parameters': (
        block,
        lambda node: node.params.append(node.params[0]),
        'too many parameters',
    ),
    'no parameters': (block, lambda node: node.params.clear(), 'input size 1'),
    'a norm': (block, replace(1, lambda p: p[1:]), 'must have 12 elements, has 11'),
    'a weight of doubles': (
        block,
        replace(4, lambda p: p.astype(np.float64)),
        'parameter 4 must be float32',
    ),
    'an index of floats': (
        block,
        replace(5, lambda p: p.astype(np.float32)),
        'parameter 5 must be int64',
    ),
    'a large index': (block, replace(5, one_index(12)), 'index 12 of 12 channels'),
    'a huge index': (block, replace(5, one_index(LARGE)), f'index {LARGE} of 12'),
    'a negative index': (block, replace(5, one_index(-1)), 'index -1 of 12 channels'),
    'an index of SFR': (
        partial(reactivation, CONV_FIRST),
        replace(-1, one_index(20)),
        'index 20 of 20 channels',
    ),
    'an index of LGC': (
        partial(lgc, CONV_FIRST),
        replace(1, one_index(40)),
        'index 40 of 40 channels',
    ),
    'a short index': (block, replace(5, lambda p: p[1:]), 'an index must have'),
    'a flat weight': (stem, replace(0, lambda p: p.reshape(-1)), "stem's weight does"),
    'a weight without outputs': (
        stem,
        replace(0, lambda p: p[:0]),
        "stem's weight does not fit",
    ),
    'a large kernel': (
        partial(lgc, CONV_FIRST),
        replace(0, lambda p: np.tile(p, (1, 1, 3, 3))),
        "LGC's weight does not fit",
    ),
    'a scalar squeeze': (
        pooling,
        replace(0, lambda p: p.reshape(-1)[:1].reshape(())),
        "squeeze's weight does not fit",
    ),
    'no channels stated': (stem, without('out_channels'), 'out_channels is missing'),
    'other channels stated': (
        stem,
        put_number('out_channels', 7),
        'give 6 channels, not the stated 7',
    ),
    'other new channels stated': (
        block,
        put_number('new_channels', 10),
        'give 9 channels, not the stated 10',
    ),
    'endless channels stated': (
        block,
        put_number('new_channels', 2 * LARGE - 1),
        f'not the stated {2 * LARGE - 1}',
    ),
    'negative channels stated': (
        stem,
        put_number('out_channels', -6),
        'give 6 channels, not the stated -6',
    ),
    'no pooling stated': (block, without('pool'), 'pool is missing'),
    'unknown channels': (
        partial(lgc, CONV_FIRST),
        unknown_channels,
        'the graph must tell how many channels input 0 has',
    ),
}


@pytest.mark.parametrize('name', BAD_NODES)
def test_rejects_bad_nodes(name):
    make, change, sentence = BAD_NODES[name]
    node = make()
    change(node)
    with pytest.raises(Exception, match=sentence) as info:
        node.session()
    if name != 'no parameters':  # ONNX Runtime rejects that itself.
        assert f"mmcdnv2: {node.kind} 'the node': " in str(info.value)


def test_rejects_doubles():
    node = block()
    node.input_type = DOUBLE
    with pytest.raises(Exception, match=r"tensor\(double\)' of input parameter \(x0\)"):
        node.session()


@pytest.mark.parametrize(
    ('make', 'shapes', 'sentence'),
    [
        (stem, [(1, 4, 8, 8)], '3 channels were expected, got 4'),
        (stem, [(3, 8, 8)], r'a float32 tensor \(N, C, H, W\) was expected'),
        (stem, [(1, 3, 8, 8, 1)], r'a float32 tensor \(N, C, H, W\) was expected'),
        (block, [(1, 13, 8, 8)], '12 channels were expected, got 13'),
        (block, [(1, 12, 8, 1)], 'an input of 8 x 1 pixels is too small'),
        (block, [(1, 12, 0, 8)], 'an input of 0 x 8 pixels is too small'),
        (pooling, [(1, 39, 8, 8)], '40 channels were expected, got 39'),
        (pooling, [(1, 40, 8, 0)], 'the map has no pixels'),
    ],
)
def test_rejects_bad_inputs(make, shapes, sentence):
    node = make()
    node.ranks_known = False
    session = node.session()
    with pytest.raises(Exception, match=sentence):
        run(session, [torch.zeros(shape) for shape in shapes])
    inputs = node.inputs(1, 6, 6)
    assert_same(run(session, inputs), node.expected(inputs))


def test_rejects_features_of_another_size():
    session = reactivation(NORM_FIRST).session()
    for other in ((2, 12, 4, 4), (1, 12, 5, 4), (1, 12, 4, 5)):
        with pytest.raises(Exception, match='old and new features must be of equal'):
            run(session, [torch.zeros(1, 20, 4, 4), torch.zeros(other)])


@pytest.mark.parametrize('text', ['0', '-1', 'two', '', '2.5', '9' * 30])
def test_rejects_bad_thread_counts(text):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(THREADS, text)
    with pytest.raises(Exception, match=f"must be a positive number, not '{text}'"):
        options.register_custom_ops_library(str(library_path()))


def test_rejects_bad_options(monkeypatch):
    for threads in (0, -2):
        with pytest.raises(InputError, match=f'1 or more, got {threads}'):
            session_options(threads)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(InputError, match='pip install onnxruntime'):
        session_options()


PROGRAM = """
import resource, sys
import numpy as np
import onnxruntime
library, model, threads = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
options.add_session_config_entry('mmcdnv2.intra_op_num_threads', threads)
options.register_custom_ops_library(library)
options.enable_cpu_mem_arena = False
options.log_severity_level = 4
session = onnxruntime.InferenceSession(
    model, options, providers=['CPUExecutionProvider']
)
images = np.zeros((2, 3, 2, 1000002), np.float32)
session.run(None, {'x0': images[..., :9].copy()})
pages = int(open('/proc/self/statm').read().split()[0])
# Enough for the output, not for the rows that each thread unpacks.
limit = pages * resource.getpagesize() + 2 * 6 * 500001 * 4 + (8 << 20)
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
try:
    session.run(None, {'x0': images})
except Exception as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, before)
print(session.run(None, {'x0': images})[0].shape)
"""


@pytest.mark.parametrize('threads', [1, 2])
def test_too_little_memory_is_an_error(tmp_path, threads):
    model = tmp_path / 'stem.onnx'
    model.write_bytes(stem().model())
    arguments = [str(library_path()), str(model), str(threads)]
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', PROGRAM, *arguments],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert 'mmcdnv2: there is not enough memory' in result.stdout
    assert '(2, 6, 1, 500001)' in result.stdout


@pytest.mark.skipif(not shutil.which('nm'), reason='nm is not installed')
def test_exports_one_symbol_and_needs_an_old_glibc():
    def symbols(which):
        command = ['nm', '-D', which, str(library_path())]
        return subprocess.check_output(command, text=True).split('\n')[:-1]

    assert [line.split()[-1] for line in symbols('--defined-only')] == [
        'RegisterCustomOps'
    ]
    versions = [line.split('GLIBC_')[1] for line in symbols('-u') if 'GLIBC_' in line]
    newest = max(tuple(map(int, version.split('.'))) for version in versions)
    assert newest <= (2, 28)
