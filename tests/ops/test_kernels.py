"""The native kernels compared with the PyTorch operators that they replace."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, randomise
from kernel_networks import (
    ARCHS,
    MODERN,
    assert_same,
    condensed,
    fallback,
    uses_kernels,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmcdnv2 import ops
from mmcdnv2.backbones import CondenseNetV2, SFRShuffleNetV2
from mmcdnv2.errors import InputError
from mmcdnv2.layers import (
    SFRModule,
    condense_layers,
    kernel_report,
    sparse_layers,
)
from mmcdnv2.necks import SEGlobalAveragePooling
from mmcdnv2.ops import library
from mmcdnv2.ops.build import build

pytestmark = pytest.mark.skipif(not ops.load(), reason=f'no kernels: {ops.describe()}')

KERNELS = torch.ops.mmcdnv2.kernel_names() if ops.load() else []


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def choose():
    yield torch.ops.mmcdnv2.choose_kernels
    torch.ops.mmcdnv2.choose_kernels(KERNELS[0])


@torch.no_grad()
@pytest.mark.parametrize('name', KERNELS)
@pytest.mark.parametrize('arch', ARCHS)
def test_match_the_operators(arch, name, choose, threads):
    choose(name)
    depth = len(ARCHS[arch]['depths'])
    backbone = condensed(arch, out_indices=tuple(range(depth)))
    for number, size in ((1, (64, 96)), (2, (63, 50)), (3, (37, 131)), (1, (224, 40))):
        threads(1 + number % 2)
        x = torch.rand(number, 3, *size)
        expected = fallback(backbone, x)
        assert_same(backbone(x), expected)
        assert_same(backbone(x.contiguous(memory_format=torch.channels_last)), expected)
    assert all(uses_kernels(block, torch.rand(1, 3, 4, 4)) for block in backbone.blocks)


@torch.no_grad()
@pytest.mark.parametrize('arch', ['a', 'b', 'cifar-110', 'v1-cifar-50'])
def test_support_every_network(arch):
    backbone = condensed(arch, out_indices=(0, 1, 2))
    report = kernel_report(backbone)
    blocks = [f'blocks.{i}' for i in range(len(backbone.blocks))]
    assert list(report) == ['stem', *blocks]
    if 'cifar' in arch:
        assert 'unsupported stride' in report.pop('stem')
    assert ops.describe() == f'native kernels ({KERNELS[0]})'
    assert set(report.values()) == {ops.describe()}
    x = torch.rand(1, 3, 96, 64)
    assert_same(backbone(x), fallback(backbone, x))


def operators_of(module, x):
    """Return the names of our operators that a module calls."""
    names = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.namespace == 'mmcdnv2':
                names.append(func._schema.name.split('::')[1])
            return func(*args, **(kwargs or {}))

    with Recorder():
        module(x)
    return names


@torch.no_grad()
def test_a_backbone_is_one_operator_or_its_parts(monkeypatch):
    backbone, x = condensed(out_indices=(3, 1)), torch.rand(2, 3, 80, 48)
    expected = fallback(backbone, x)
    parts = ['stem', *4 * ['dense_block']]
    assert operators_of(backbone, x) == ['backbone']
    assert_same(backbone(x), expected)
    assert [out.size(1) for out in expected] == [
        backbone.out_channels[i] for i in (1, 3)
    ]
    # A hook on a part is called, so the parts run one by one.
    seen = []
    for part in (backbone.stem, backbone.blocks[2]):
        handle = part.register_forward_hook(lambda *_: seen.append(1))
        assert operators_of(backbone, x) == parts
        assert_same(backbone(x), expected)
        assert len(seen) == 2
        seen.clear()
        handle.remove()
        assert operators_of(backbone, x) == ['backbone']
    block = backbone.blocks[1]
    monkeypatch.setattr(block, 'forward', lambda x: 2 * type(block).forward(block, x))
    assert operators_of(backbone, x) == parts
    torch.testing.assert_close(backbone(x)[0], 2 * expected[0], rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    assert operators_of(backbone, x) == ['backbone']
    # Other out_indices.
    backbone.out_indices = (0,)
    assert operators_of(backbone.eval(), x) == ['backbone']
    assert_same(backbone(x), fallback(backbone, x))
    # If one block has no kernel, the others still run on theirs.
    backbone.out_indices = (3,)
    backbone.blocks[1].pool.ceil_mode = True
    parts[2] = 'reactivate'
    assert operators_of(backbone.eval(), x) == parts
    assert_same(backbone(x), fallback(backbone, x))


@torch.no_grad()
def test_different_groups_fall_back_to_pytorch():
    backbone, x = condensed(), torch.rand(1, 3, 64, 64)
    conv = backbone.blocks[0].dense_layers()[0].conv
    old = conv.conv
    conv.conv = torch.nn.Conv2d(
        old.in_channels, old.out_channels, 3, padding=1, bias=False
    )
    assert 'differ in groups' in backbone.blocks[0].runs_on()
    assert_same(backbone(x), fallback(backbone, x))


@torch.no_grad()
def test_reports_norms_without_statistics():
    norm_cfg = dict(type='BN', track_running_stats=False)
    module = SFRModule(8, 8, 2, norm_cfg=norm_cfg, deploy=True).eval()
    assert 'its norm lacks parameters or running statistics' in module.runs_on()


@torch.no_grad()
def test_backbones_check_their_input():
    backbone = condensed()
    assert backbone(torch.rand(0, 3, 64, 64))[0].shape == (0, 111, 4, 4)
    with pytest.raises(RuntimeError, match='3 channels were expected, got 4'):
        backbone(torch.rand(1, 4, 64, 64))
    with pytest.raises(InputError, match='needs images of at least 15 x 15 pixels'):
        backbone(torch.rand(1, 3, 8, 64))


@torch.no_grad()
def test_large_maps_reuse_memory(threads):
    resource = pytest.importorskip('resource')
    threads(1)
    backbone, x = (
        condensed('a', out_indices=(0, 1, 2, 3, 4)),
        torch.rand(1, 3, 640, 640),
    )
    outs = backbone(x)
    size = sum(out.numel() * 4 for out in outs)
    assert size > 18e6
    del outs
    faults = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        backbone(x)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults) < 0.02 * size / resource.getpagesize()
    # Memory in use is not reused.
    first, second = backbone(x), backbone(1 - x)
    assert not torch.equal(first[0], second[0])
    assert_same(first, fallback(backbone, x))
    grown = first[0].clone().resize_(2, *first[0].shape[1:])
    first[0].resize_(2, *first[0].shape[1:])
    assert torch.equal(first[0][0], grown[0])


@torch.no_grad()
def test_detection_sizes(threads):
    backbone = condensed('a', out_indices=(1, 2, 3, 4))
    x = torch.rand(1, 3, 320, 416)
    expected = fallback(backbone, x)
    for number in (1, 2, 5):
        threads(number)
        assert_same(backbone(x), expected)


@torch.no_grad()
@pytest.mark.parametrize('order', [('conv', 'norm', 'act'), ('norm', 'act', 'conv')])
def test_reactivation_on_its_own(order):
    torch.manual_seed(0)
    module = SFRModule(12, 20, groups=4, sparse_factor=3, order=order, deploy=True)
    randomise(module)
    module.eval()
    for shape in ((2, 5, 5), (1, 16, 16), (3, 7, 30)):
        old, new = torch.randn(2, 20, *shape[1:]), torch.randn(2, 12, *shape[1:])
        before = old.clone()
        assert uses_kernels(module, old, new)
        assert_same([module(old, new)], [fallback(module, old, new)])
        torch.testing.assert_close(old, before, rtol=0, atol=0)


@torch.no_grad()
def test_pooling_neck():
    torch.manual_seed(0)
    neck = SEGlobalAveragePooling(40, ratio=4).eval()
    for size in ((7, 7), (1, 1), (5, 13)):
        x = torch.randn(3, 40, *size)
        assert uses_kernels(neck, x)
        assert_same(neck((x,)), fallback(neck, (x,)))
    normed = SEGlobalAveragePooling(40, ratio=4, norm_cfg=dict(type='BN')).eval()
    assert not uses_kernels(normed, torch.randn(1, 40, 7, 7))


@torch.no_grad()
def test_shufflenet_uses_kernels():
    torch.manual_seed(0)
    backbone = SFRShuffleNetV2(0.5, out_indices=(0, 1, 2), deploy=True).eval()
    randomise(backbone)
    assert set(kernel_report(backbone).values()) == {ops.describe()}
    x = torch.rand(1, 3, 96, 96)
    assert_same(backbone(x), fallback(backbone, x))


@torch.no_grad()
def test_changed_weights_are_used():
    backbone = condensed()
    x = torch.rand(1, 3, 64, 64)
    other = condensed()
    for parameter in other.parameters():
        parameter.mul_(1.1)
    first = backbone(x)
    backbone.load_state_dict(other.state_dict())
    assert_same(backbone(x), fallback(backbone, x))
    assert not torch.equal(backbone(x)[0], first[0])
    norm = backbone.blocks[0][0].lgc.norm
    norm.weight.data, norm.bias.data = norm.bias.data, norm.weight.data
    assert_same(backbone(x), fallback(backbone, x))
    norm.eps = 0.5
    assert_same(backbone(x), fallback(backbone, x))
    # MMEngine's EMAHook swaps weights like this before validation.
    norm.weight.data.copy_(torch.rand_like(norm.weight))
    backbone.eval()
    assert_same(backbone(x), fallback(backbone, x))
    backbone.blocks[1][1].conv.conv.weight = nn.Parameter(
        torch.rand_like(backbone.blocks[1][1].conv.conv.weight)
    )
    assert_same(backbone(x), fallback(backbone, x))


def test_gradients_use_the_operators():
    backbone = condensed()
    x = torch.rand(1, 3, 64, 64)
    assert not uses_kernels(backbone.blocks[0], backbone.stem(x))
    backbone(x)[0].sum().backward()
    assert backbone.blocks[0][0].lgc.conv.weight.grad.abs().sum() > 0
    backbone.requires_grad_(False)
    assert uses_kernels(backbone.blocks[0], backbone.stem(x))
    assert not uses_kernels(backbone.blocks[0], backbone.stem(x).requires_grad_())


@torch.no_grad()
def test_unsupported_cases_fall_back():
    backbone = condensed()
    block, x = backbone.blocks[0], backbone.stem(torch.rand(1, 3, 64, 64))
    assert uses_kernels(block, x)
    assert not uses_kernels(block, x.double())
    assert not uses_kernels(block, x.bfloat16())
    assert not uses_kernels(block.train(), x)
    block.eval()
    block[0].sfr.norm.train()
    assert not uses_kernels(block, x)
    block[0].sfr.norm.eval()
    with torch.autocast('cpu', torch.bfloat16):
        assert not uses_kernels(block, x)
    assert uses_kernels(block, x)
    block[0].lgc.activate = nn.ELU()
    assert not uses_kernels(block, x)
    block.eval()
    assert kernel_report(backbone)['blocks.0'] == (
        'PyTorch operators (its activation is ELU)'
    )
    assert_same([block(x)], [fallback(block, x)])
    half = condensed().bfloat16()
    assert 'bfloat16' in kernel_report(half)['blocks.0']
    half(torch.rand(1, 3, 64, 64).bfloat16())


@torch.no_grad()
def test_channels_last_weights():
    backbone = condensed().to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    assert uses_kernels(backbone.blocks[0], backbone.stem(x))
    assert_same(backbone(x), fallback(backbone, x))


@torch.no_grad()
def test_double_weights_assigned_later():
    backbone = condensed()
    x = torch.rand(1, 3, 64, 64)
    backbone(x)
    state = {
        name: value.double() if value.is_floating_point() else value
        for name, value in backbone.state_dict().items()
    }
    backbone.load_state_dict(state, assign=True)
    assert backbone(x.double())[0].dtype == torch.float64


@torch.no_grad()
def test_replaced_and_added_children():
    backbone = condensed()
    x = torch.rand(1, 3, 64, 64)
    backbone(x)
    backbone.blocks[0].add_module('more', nn.Softplus())
    assert_same(backbone(x), fallback(backbone, x))
    backbone.eval()
    assert 'Softplus is not DenseLayer' in kernel_report(backbone)['blocks.0']
    assert_same(backbone(x), fallback(backbone, x))


def test_derivatives_without_gradients():
    backbone = condensed().requires_grad_(False)
    x, tangent = torch.rand(2, 1, 3, 64, 64)

    def first(x):
        return backbone(x)[0]

    actual = torch.func.jvp(first, (x,), (tangent,))
    expected = fallback(torch.func.jvp, first, (x,), (tangent,))
    assert_same(actual, expected)
    assert actual[1].abs().max() > 0


def test_symbolic_trace():
    with torch.no_grad():
        graph = torch.fx.symbolic_trace(condensed().blocks[0])
        x = torch.rand(1, 6, 8, 8)
        assert_same([graph(x)], [condensed().blocks[0](x)])


@torch.no_grad()
def test_hooks_inside_still_fire():
    backbone = condensed()
    x = torch.rand(1, 3, 64, 64)
    expected = backbone(x)
    seen = []
    layer = backbone.blocks[0][0].conv.activate
    handle = layer.register_forward_hook(lambda *_: seen.append(1))
    assert_same(backbone(x), expected)
    assert seen == [1]
    handle.remove()
    backbone(x)
    assert seen == [1]


@torch.no_grad()
def test_restored_hooks_fire():
    backbone = condensed()
    x = torch.rand(1, 3, 64, 64)
    seen = []
    for module in (backbone.stem, backbone.blocks[1], backbone.blocks[0][0].conv):
        seen.clear()
        module.register_forward_hook(lambda *_: seen.append(1))
        hooks = dict(module._forward_hooks)
        module._forward_hooks.clear()
        backbone(x)
        assert not seen
        module._forward_hooks.update(hooks)
        backbone(x)
        assert seen == [1]
        module._forward_hooks.clear()


def test_sparse_networks_do_not_use_kernels():
    backbone = CondenseNetV2('a').eval()
    with torch.no_grad():
        assert not uses_kernels(backbone.blocks[0], torch.rand(1, 16, 8, 8))
    assert 'LGC is not CondensedLGC' in kernel_report(backbone)['blocks.0']


@torch.no_grad()
def test_nan_is_propagated():
    backbone = condensed()
    x = torch.rand(1, 3, 64, 64)
    x[0, 0, 5, 5] = float('nan')
    actual, expected = backbone(x)[0], fallback(backbone, x)[0]
    assert actual.isnan().any()
    # The dense form of SFR also spreads it along pruned weights.
    assert not (actual.isnan() & ~expected.isnan()).any()


@torch.no_grad()
def test_rejects_a_bad_index():
    backbone = condensed()
    x = torch.rand(1, 3, 64, 64)
    backbone(x)
    backbone.blocks[0][0].sfr.conv.index[0] = 10_000
    with pytest.raises(IndexError, match='index 10000 of 6 channels'):
        backbone(x)


@torch.no_grad()
def test_copies_and_pickles():
    backbone = condensed()
    x = torch.rand(1, 3, 64, 64)
    expected = backbone(x)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert_same(other(x), expected)
        other.blocks[0][0].conv.conv.weight.mul_(2)
        assert_same(other(x), fallback(other, x))
    assert_same(backbone(x), expected)


@torch.no_grad()
def test_inference_mode():
    with torch.inference_mode():
        backbone = condensed()
        x = torch.rand(1, 3, 64, 64)
        assert_same(backbone(x), fallback(backbone, x))


@pytest.mark.skipif(not MODERN, reason='torch 2.1 has no is_compiling')
@torch.no_grad()
def test_torch_export_keeps_kernels():
    backbone = condensed(out_indices=(1, 3))
    size = torch.export.Dim('size', min=1, max=8)
    shapes = {0: torch.export.Dim('number', max=8), 2: 16 * size}
    program = torch.export.export(
        backbone, (torch.rand(2, 3, 64, 64),), dynamic_shapes=(shapes,)
    )
    targets = [str(node.target) for node in program.graph.nodes]
    assert [each for each in targets if 'mmcdnv2' in each] == [
        'mmcdnv2.backbone.default'
    ]
    x = torch.rand(3, 3, 96, 64)
    assert_same(program.module()(x), backbone(x))


@torch.no_grad()
def test_exporters_record_the_parts():
    backbone, x = condensed(), torch.rand(1, 3, 64, 64)
    with library.kernels_in_exports():
        assert not uses_kernels(backbone, x)
        assert uses_kernels(backbone.stem, x)
    assert uses_kernels(backbone, x)


@torch.no_grad()
def test_fake_outputs_match_the_real_shapes():
    from torch._subclasses.fake_tensor import FakeTensorMode

    backbone = condensed(out_indices=(0, 2, 3))
    for size in ((64, 64), (63, 50)):
        x = backbone.stem(torch.rand(2, 3, *size))
        for block in backbone.blocks:
            args = block.kernel_args(x)
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fake = torch.ops.mmcdnv2.dense_block(mode.from_tensor(x), *args)
            x = block(x)
            assert fake.shape == x.shape
            assert fake.stride() == x.stride()
        x = torch.rand(2, 3, *size)
        args = backbone.kernel_args(x)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes = torch.ops.mmcdnv2.backbone(mode.from_tensor(x), *args)
        outs = backbone(x)
        assert [fake.shape for fake in fakes] == [out.shape for out in outs]
        args = backbone.stem.kernel_args(x)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = torch.ops.mmcdnv2.stem(mode.from_tensor(x), *args)
        assert fake.shape == backbone.stem(x).shape
        backbone.out_indices = (0, 2, 3)
        args = backbone.kernel_args(x)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes = torch.ops.mmcdnv2.backbone(mode.from_tensor(x), *args)
        assert [fake.shape for fake in fakes] == [out.shape for out in backbone(x)]


@torch.no_grad()
def test_rejects_wrong_shape_arguments():
    # A graph would otherwise continue with a wrong shape.
    backbone, x = condensed(), torch.rand(1, 3, 64, 64)
    *args, channels = backbone.stem.kernel_args(x)
    assert torch.ops.mmcdnv2.stem(x, *args, channels).size(1) == channels
    *whole, pools, counts, indices = backbone.kernel_args(x)
    with pytest.raises(RuntimeError, match='give 12 channels, not the stated 13'):
        torch.ops.mmcdnv2.backbone(x, *whole, pools, [13, *counts[1:]], indices)
    with pytest.raises(RuntimeError, match='the spec and pools differ'):
        torch.ops.mmcdnv2.backbone(x, *whole, [1, *pools[1:]], counts, indices)
    with pytest.raises(RuntimeError, match='expected of 4 blocks'):
        torch.ops.mmcdnv2.backbone(x, *whole, pools[1:], counts[1:], indices)
    for wrong in ([4], [-1], [3, 3]):
        with pytest.raises(IndexError, match='of 4 blocks'):
            torch.ops.mmcdnv2.backbone(x, *whole, pools, counts, wrong)
    with pytest.raises(RuntimeError, match='give 6 channels, not the stated 7'):
        torch.ops.mmcdnv2.stem(x, *args, channels + 1)
    x = backbone.stem(x)
    *args, channels = backbone.blocks[0].kernel_args(x)
    assert torch.ops.mmcdnv2.dense_block(x, *args, channels).size(1) == 6 + channels
    with pytest.raises(RuntimeError, match='give 12 channels, not the stated 13'):
        torch.ops.mmcdnv2.dense_block(x, *args, channels + 1)


@torch.no_grad()
def test_torch_compile_keeps_kernels():
    backbone = condensed()
    compiled = torch.compile(backbone, backend='eager', fullgraph=MODERN)
    x = torch.rand(1, 3, 64, 64)
    expected = backbone(x)
    assert_same(compiled(x), expected)
    if MODERN:
        graph = torch._dynamo.export(backbone)(x).graph_module.graph
        targets = [str(node.target) for node in graph.nodes]
        assert sum('mmcdnv2.backbone' in target for target in targets) == 1
    backbone.blocks[0][0].sfr.norm.train()
    assert_same(compiled(x), backbone(x))


def test_compile_recomputation():
    backbone = CondenseNetV2(ARCHS['no_sfr'], with_cp=True)
    x = torch.rand(2, 3, 64, 64)
    torch.compile(backbone, backend='eager')(x)[0].sum().backward()
    assert backbone.stem.conv.weight.grad.abs().sum() > 0


def test_uses_pytorchs_threads():
    # at::parallel_for runs serially if compiled without OpenMP.
    content = build().read_bytes()
    assert b'GOMP_parallel' in content or b'__kmpc_fork_call' in content


def test_are_loaded_for_inference_only(monkeypatch):
    """Building a network, or running it on another device, does not compile them."""
    calls = []
    monkeypatch.setattr(library, 'load', lambda: calls.append(1))
    backbone = CondenseNetV2('a', deploy=True)
    backbone.train()
    with torch.device('meta'):
        CondenseNetV2('a', deploy=True).eval()
    assert not calls
    backbone.eval()
    assert calls
    for make in (
        lambda: pickle.loads(pickle.dumps(backbone)),
        lambda: condense_layers(finished_backbone().eval()),
    ):
        calls.clear()
        make()
        assert calls


def finished_backbone():
    backbone = CondenseNetV2('a')
    for layer in sparse_layers(backbone).values():
        layer.set_progress(1)
    return backbone


PROGRAM = """
import torch, warnings
from mmcdnv2 import ops
from mmcdnv2.backbones import CondenseNetV2
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    backbone = CondenseNetV2('a', deploy=True).eval()
    with torch.no_grad():
        backbone(torch.rand(1, 3, 64, 64))
print(ops.describe())
print(sum('native kernels' in str(w.message) for w in caught), 'warnings')
"""


def describe_in(tmp_path, **environment):
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', PROGRAM],
        env=dict(os.environ, PYTHONPATH=str(ROOT), **environment),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


def test_without_a_compiler(tmp_path):
    empty = dict(XDG_CACHE_HOME=str(tmp_path), CXX='no-such-compiler')
    out = describe_in(tmp_path, **empty)
    assert 'PyTorch operators (there is no C++ compiler no-such-compiler' in out
    assert '1 warnings' in out


def test_environment_variable(tmp_path):
    out = describe_in(tmp_path, MMCDNV2_KERNELS='0')
    assert 'PyTorch operators (turned off by MMCDNV2_KERNELS=0)' in out
    assert '0 warnings' in out
    out = describe_in(tmp_path, MMCDNV2_KERNELS='baseline')
    assert 'native kernels (baseline)' in out
    out = describe_in(tmp_path, MMCDNV2_KERNELS='mmx')
    assert 'no kernels called mmx' in out


def test_core():
    # make kernels-check runs this under sanitizers, which takes minutes.
    script = ROOT / '.dev' / 'check_kernels.py'
    out = subprocess.check_output(
        [sys.executable, '-W', 'ignore', script, 'native', '--blocks', '50'],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        text=True,
    )
    for name in KERNELS:
        assert f'{name}: 50 random blocks' in out
