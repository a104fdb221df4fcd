"""Kernels after changes of weights, code, modes and threads."""

import copy
import os
import random
import subprocess
import sys
import threading
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from conftest import HANG, ROOT
from kernel_networks import MODERN, assert_same, condensed, fallback, uses_kernels
from mmengine.hooks import EMAHook
from mmpretrain.models.utils import SELayer
from torch import nn
from torch.nn.utils import parametrize

from mmcdnv2 import ops
from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.backbones.dense_block import DenseBlock, DenseLayer
from mmcdnv2.layers import CondensedLGC, kernel_report

pytestmark = pytest.mark.skipif(not ops.load(), reason=f'no kernels: {ops.describe()}')


def assert_sees(backbone, x, before):
    """Check that the kernels use the current weights."""
    with torch.no_grad():
        actual = backbone(x)
        assert all(
            uses_kernels(block, torch.rand(1, 3, 4, 4)) for block in backbone.blocks
        )
        assert_same(actual, fallback(backbone, x))
        assert not torch.allclose(actual[0], before[0], rtol=1e-3, atol=1e-3)


def assert_sees_operators(backbone, x, before):
    """Check that PyTorch's operators use the current weights."""
    assert not uses_kernels(backbone, x)
    actual = backbone(x)
    assert_same(actual, fallback(backbone, x))
    assert not torch.equal(actual[0], before[0])


@pytest.fixture
def network():
    backbone, x = condensed(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        return backbone, x, backbone(x)


@pytest.mark.skipif(not MODERN, reason='torch 2.1 fuses on CUDA only')
@pytest.mark.parametrize('kind', ['SGD', 'Adam', 'AdamW'])
def test_fused_optimizers(network, kind):
    backbone, x, before = network
    optimizer = getattr(torch.optim, kind)(backbone.parameters(), 0.1, fused=True)
    for _ in range(2):
        optimizer.zero_grad()
        backbone(x)[0].mean().backward()
        with torch.no_grad():
            before = backbone(x)
        optimizer.step()
        assert_sees(backbone, x, before)


def test_a_fused_optimizer_that_changes_one_weight(network):
    backbone, x, before = network
    weight = backbone.blocks[0][1].conv.conv.weight
    weight.grad = torch.zeros_like(weight)
    weight.grad.view(-1)[weight.numel() // 2] = 1
    with torch.no_grad():
        backbone(x)
    version = weight._version
    # Like a fused optimizer, this does not increase the version counter.
    torch.utils.dlpack.from_dlpack(weight.detach()).sub_(100 * weight.grad)
    assert weight._version == version
    assert_sees(backbone, x, before)


COLLECTIVES = """
import sys
import torch
from torch import distributed
sys.path.insert(0, sys.argv[3])
from kernel_networks import assert_same, condensed, fallback

rank = int(sys.argv[1])
torch.set_num_threads(1)
store = 'file://' + sys.argv[2]
distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=2)
backbone, x = condensed(), torch.ones(1, 3, 64, 64)
with torch.no_grad():
    for collective in (distributed.all_reduce, distributed.broadcast):
        for parameter in backbone.parameters():
            parameter.mul_(1.5 - rank)
        before = backbone(x)
        for parameter in backbone.parameters():
            collective(parameter, 0 if collective is distributed.broadcast else SUM)
        after = backbone(x)
        assert_same(after, fallback(backbone, x))
        if rank:
            assert not torch.allclose(after[0], before[0], rtol=0.1)
print('seen')
""".replace('SUM', 'distributed.ReduceOp.SUM')


def test_collectives(tmp_path):
    script = tmp_path / 'collectives.py'
    script.write_text(COLLECTIVES)
    command = [sys.executable, '-W', 'ignore', script]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), tmp_path / 'store', ROOT / 'tests'],
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=HANG)[0] for process in ranks]
    assert [out.splitlines()[-1:] for out in outputs] == [['seen'], ['seen']]


@torch.inference_mode()
def test_writes_in_inference_mode():
    backbone, x = condensed(), torch.rand(1, 3, 64, 64)
    before = backbone(x)
    weight = backbone.blocks[0][1].conv.conv.weight
    assert weight.is_inference()
    weight.view(-1)[weight.numel() // 2] += 100
    after = backbone(x)
    assert_same(after, fallback(backbone, x))
    assert not torch.allclose(after[0], before[0], rtol=1e-3, atol=1e-3)


def test_writes_through_data(network):
    backbone, x, before = network
    backbone.blocks[1][1].lgc.conv.weight.data.mul_(3)
    assert_sees(backbone, x, before)


def test_writes_through_data_before_eval(network):
    backbone, x, before = network
    weight = backbone.blocks[3][1].lgc.conv.weight
    assert weight.numel() * 4 > 8192 + 64
    # An element outside the fingerprint, changed without a new version.
    weight.data.view(-1)[20] += 1e4
    backbone.eval()
    assert_sees(backbone, x, before)


def test_eval_in_another_thread(network):
    backbone, x, expected = network
    errors, stop = [], threading.Event()

    def infer():
        try:
            with torch.no_grad():
                while not stop.is_set():
                    assert_same(backbone(x), expected)
        except Exception as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=infer)
    thread.start()
    try:
        for _ in range(300):
            backbone.eval()
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert errors == []


@pytest.mark.skipif(not MODERN, reason='torch 2.1 has no swap_tensors')
def test_swapped_tensors(network):
    backbone, x, before = network
    norm = backbone.blocks[0][0].lgc.norm
    torch.utils.swap_tensors(norm.weight, nn.Parameter(torch.rand(norm.num_features)))
    assert_sees(backbone, x, before)


def test_vmap_over_stacked_networks(network):
    backbone, x, first = network
    other = condensed()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
        second = other(x)
    params, buffers = torch.func.stack_module_state([backbone, other])

    def call(params, buffers):
        return torch.func.functional_call(backbone, (params, buffers), (x,))

    with torch.no_grad():
        both = torch.func.vmap(call)(params, buffers)
        assert_same([out[0] for out in both], first)
        assert_same([out[1] for out in both], second)
        assert_same(backbone(x), first)


class Doubled(DenseLayer):
    def forward(self, x):
        return 2 * super().forward(x)


class ShiftedNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


class SquaredSE(SELayer):
    def forward(self, x):
        return super().forward(x).square()


def double_on_instance(backbone, monkeypatch):
    layer = backbone.blocks[2][1]
    original = layer.forward
    layer.forward = lambda x: 2 * original(x)


def double_on_class(backbone, monkeypatch):
    original = DenseLayer.forward
    monkeypatch.setattr(DenseLayer, 'forward', lambda self, x: 2 * original(self, x))


def double_by_subclass(backbone, monkeypatch):
    backbone.blocks[2][1].__class__ = Doubled
    backbone.eval()


def shift_norms(backbone, monkeypatch):
    norm = backbone.blocks[2][1].lgc.norm
    other = ShiftedNorm(norm.num_features)
    other.load_state_dict(norm.state_dict())
    backbone.blocks[2][1].lgc.bn = other.eval()


def square_excitation(backbone, monkeypatch):
    layer = backbone.blocks[2][1]
    other = SquaredSE(21, 21, bias=False)
    other.load_state_dict(layer.se.state_dict())
    layer.se = other


@torch.no_grad()
@pytest.mark.parametrize('used_before', [False, True])
@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (double_on_instance, 'the forward of a DenseLayer was replaced'),
        (double_on_class, 'the forward of a DenseLayer was replaced'),
        (double_by_subclass, 'Doubled is not DenseLayer'),
        (shift_norms, 'its norm is ShiftedNorm'),
        (square_excitation, 'SquaredSE is not SELayer'),
    ],
)
def test_overridden_code_runs(change, reason, used_before, monkeypatch):
    backbone, x = condensed(), torch.rand(1, 3, 64, 64)
    expected = fallback(condensed(), x)
    if used_before:
        assert_same(backbone(x), expected)
    change(backbone, monkeypatch)
    actual = backbone(x)
    assert_same(actual, fallback(backbone, x))
    assert not torch.allclose(actual[0], expected[0], rtol=1e-2, atol=1e-2)
    assert reason in kernel_report(backbone)['blocks.2']


@torch.no_grad()
def test_kernels_support_sync_batch_norm(network):
    backbone, x, before = network
    # torch 2.1 resets the mode.
    backbone = nn.SyncBatchNorm.convert_sync_batchnorm(backbone).eval()
    assert isinstance(backbone.blocks[0][0].lgc.norm, nn.SyncBatchNorm)
    assert all(uses_kernels(block, torch.rand(1, 3, 4, 4)) for block in backbone.blocks)
    assert_same(backbone(x), before)


@torch.no_grad()
@pytest.mark.parametrize('deploy', [False, True])
def test_eval_does_not_recompile(deploy):
    backbone = condensed() if deploy else CondenseNetV2('cifar-110').eval()
    x, graphs = torch.rand(1, 3, 32, 32), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(backbone, backend=count)
    compiled(x)
    first = len(graphs)
    assert first
    for _ in range(3):
        backbone.train()
        backbone.eval()
        compiled(x)
    assert len(graphs) == first
    if MODERN:
        targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
        assert any('mmcdnv2.' in target for target in targets) == deploy


@torch.no_grad()
def test_compiled_networks_see_changes():
    backbone, x = condensed(), torch.rand(1, 3, 64, 64)
    compiled = torch.compile(backbone, backend='eager')
    before = compiled(x)
    backbone.blocks[0][0].lgc.norm.weight.mul_(3)
    assert_same(compiled(x), fallback(backbone, x))
    backbone.blocks[0][0].conv.conv.weight.data.view(-1)[9] += 100
    backbone.eval()
    after = compiled(x)
    assert_same(after, fallback(backbone, x))
    assert not torch.allclose(after[0], before[0], rtol=1e-3, atol=1e-3)
    layer = backbone.blocks[0][0]
    layer.forward = lambda x: torch.cat([x, x[:, :3]], 1)
    assert_same(compiled(x), fallback(backbone, x))


@torch.no_grad()
def test_kernels_run_again_after_a_restored_forward(network):
    backbone, x, expected = network
    layer = backbone.blocks[2][1]
    backbone.eval()
    layer.forward = layer.forward
    assert not uses_kernels(backbone.blocks[2], backbone.stem(x))
    del layer.forward
    assert uses_kernels(backbone.blocks[2], backbone.stem(x))
    assert_same(backbone(x), expected)


@torch.no_grad()
def test_changed_out_indices(network):
    backbone, x, _ = network
    for indices in ((1, 2), (0,), [3, 1]):
        backbone.out_indices = indices
        assert uses_kernels(backbone, x)
        assert_same(backbone(x), fallback(backbone, x))


@torch.no_grad()
def test_out_channels_may_be_overwritten(network):
    # Torchvision's detectors need an int.
    backbone, x, before = network
    backbone.eval().out_channels = 111
    assert uses_kernels(backbone, x)
    assert_same(backbone(x), before)


@torch.no_grad()
@pytest.mark.parametrize('name', ['stem', 'blocks.0.0.conv', 'blocks.2.1.lgc'])
def test_parametrizations(network, name):
    backbone, x, before = network
    conv = backbone.get_submodule(name).conv
    parametrize.register_parametrization(conv, 'weight', nn.Softplus())
    assert_sees_operators(backbone, x, before)
    backbone.eval()
    assert_sees_operators(backbone, x, before)
    parametrize.remove_parametrizations(conv, 'weight')
    assert uses_kernels(backbone, x)
    assert_sees(backbone, x, before)


@torch.no_grad()
def test_blocks_of_another_structure():
    backbone, x = condensed('no_sfr'), torch.rand(1, 3, 64, 64)
    first, last = backbone.blocks
    pooling = DenseBlock(OrderedDict(pool=nn.AvgPool2d(2), **first._modules))
    empty = DenseBlock(OrderedDict())
    for blocks in ([pooling, last], [empty, pooling, last], [first, last]):
        backbone.blocks = nn.ModuleList(blocks)
        backbone.out_indices = (len(blocks) - 1,)
        assert_same(backbone(x), fallback(backbone, x))
    assert uses_kernels(backbone, x)


def swap_averages(backbone, average):
    """Swap weights as EMAHook does before and after validation."""
    hook = EMAHook()
    hook.src_model, hook.ema_model = backbone, SimpleNamespace(module=average)
    hook.ema_model.update_buffers = False
    hook._swap_ema_parameters()


CHANGES = {}


def change(function):
    CHANGES[function.__name__] = function
    return function


def pick(backbone, dice, kind=torch.Tensor):
    """Return module, name and tensor of a random float parameter or buffer."""
    found = [
        (module, name)
        for module in backbone.modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if isinstance(tensor, kind) and tensor.is_floating_point()
    ]
    module, name = dice.choice(found)
    return module, name, getattr(module, name)


def other_values(tensor):
    # Variances stay positive.
    return tensor * (0.75 + 0.5 * torch.rand_like(tensor))


@change
def in_place(backbone, dice):
    pick(backbone, dice)[2].mul_(1.25)


@change
def one_number(backbone, dice):
    tensor = pick(backbone, dice)[2]
    tensor[tuple(map(dice.randrange, tensor.shape))] += 0.25


@change
def all_at_once(backbone, dice):
    torch._foreach_mul_(list(backbone.parameters()), 1.0625)


@change
def content_of_data(backbone, dice):
    pick(backbone, dice)[2].data.mul_(0.875)


@change
def all_of_data(backbone, dice):
    for parameter in backbone.parameters():
        parameter.data.copy_(other_values(parameter))


@change
def other_data(backbone, dice):
    tensor = pick(backbone, dice)[2]
    tensor.data = other_values(tensor)


@change
def other_parameter(backbone, dice):
    module, name, tensor = pick(backbone, dice, nn.Parameter)
    setattr(module, name, nn.Parameter(other_values(tensor)))


@change
def numpy_array(backbone, dice):
    tensor = pick(backbone, dice)[2].detach().numpy()
    tensor *= 1.125


@change
def one_vector(backbone, dice):
    parameters = list(backbone.parameters())
    vector = other_values(torch.cat([each.flatten() for each in parameters]))
    torch.nn.utils.vector_to_parameters(vector, parameters)


@change
def loaded(backbone, dice):
    state = backbone.state_dict()
    backbone.load_state_dict(
        {
            key: other_values(value) if value.is_floating_point() else value.clone()
            for key, value in state.items()
        },
        **dict(assign=dice.random() < 0.5) if MODERN else {},
    )


@change
def average(backbone, dice):
    other = copy.deepcopy(backbone)
    all_of_data(other, dice)
    swap_averages(backbone, other)


@change
def optimised(backbone, dice):
    # The norms' statistics do not change, as with frozen norms.
    kind = dice.choice([torch.optim.SGD, torch.optim.AdamW])
    options = dict(fused=True) if MODERN and dice.random() < 0.5 else {}
    optimizer = kind(backbone.parameters(), 1e-2, **options)
    with torch.enable_grad():
        backbone(torch.rand(1, 3, 32, 32))[0].square().mean().backward()
    optimizer.step()
    if dice.random() < 0.5:
        optimizer.zero_grad()


@change
def clipped(backbone, dice):
    for parameter in backbone.parameters():
        parameter.clamp_(-1, 1)


@change
def other_eps(backbone, dice):
    norms = [each for each in backbone.modules() if isinstance(each, nn.BatchNorm2d)]
    dice.choice(norms).eps *= 2


@change
def other_index(backbone, dice):
    layers = [each for each in backbone.modules() if isinstance(each, CondensedLGC)]
    layer = dice.choice(layers)
    layer.index.copy_((layer.index + 1) % layer.columns)


@change
def other_layout(backbone, dice):
    formats = torch.channels_last, torch.contiguous_format
    backbone.to(memory_format=dice.choice(formats))


@change
def there_and_back(backbone, dice):
    backbone.train()
    backbone.eval()


@change
def shared(backbone, dice):
    backbone.share_memory()


@change
def doubled_and_back(backbone, dice):
    backbone.double().float()


@change
def trained_statistics(backbone, dice):
    with torch.no_grad():
        backbone.train()(torch.rand(2, 3, 32, 32))
    backbone.eval()


# For more: MMCDNV2_SEQUENCES=300 python -m pytest tests/ops/test_changes.py -k seq
@torch.no_grad()
@pytest.mark.parametrize('seed', range(int(os.environ.get('MMCDNV2_SEQUENCES', 20))))
def test_sequences_of_changes(seed):
    dice = random.Random(seed)
    arch = dice.choice(['many_sfr_groups', 'conv_first', 'wide'])
    backbone, x = condensed(arch, out_indices=(0, 1)), torch.rand(1, 3, 32, 32)
    done = []
    for name in dice.choices(sorted(CHANGES), k=8):
        before = backbone(x)
        CHANGES[name](backbone, dice)
        done.append(name)
        assert all(uses_kernels(block, x[:, :1]) for block in backbone.blocks), done
        after, expected = backbone(x), fallback(backbone, x)
        try:
            assert_same(after, expected)
        except AssertionError as error:
            stale = all(map(torch.equal, after, before))
            raise AssertionError(f'{done}, output is stale: {stale}') from error
