"""Random networks, what they are given, and what has to be true of all of them.

The formulas are the paper's, written down anew: nothing of the package says here how
many channels are kept, or which.
"""

import copy
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import Any, Dict, Tuple

import pytest
import torch
from conftest import randomise
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_networks import assert_same, fallback
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmcdnv2 import ops
from mmcdnv2.errors import InputError
from mmcdnv2.layers import LGC, SFR, condense_layers, sparse_layers
from mmcdnv2.ops.kernel_module import KernelMixin

# How many cases of a kind there are in "make test", 100 in all, and in "make
# test-long", 2,000. Exports take seconds each.
CASES = dict(layer=25, module=15, condensenet=30, shufflenet=6, classifier=9)
CASES.update(refused=10, exported=5)
LONG = 20

# What ran, by kind and by what was seen in it.
seen: Counter = Counter()


def run_cases(kind, strategy, check, is_long):
    """Check the cases of a kind, the same ones each time but in long runs."""
    number = CASES[kind] * (LONG if is_long else 1)
    before = seen[kind]

    @settings(
        max_examples=number,
        derandomize=not is_long,
        database=None,
        deadline=None,
        # To find a smaller case would take minutes.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(case):
        check(case)
        seen[kind] += 1

    run()
    assert seen[kind] - before == number
    # With "-s": how many there were, and what was seen in all of them so far.
    print(kind, seen[kind] - before, dict(seen))


# ---------------------------------------------------------------- the paper's formulas


def stage_by_hand(progress: Fraction, factor: int) -> int:
    """``floor(2 p (S - 1))``, at most ``S - 1``."""
    return min(int(2 * progress * (factor - 1)), factor - 1)


def kept_by_hand(channels: int, factor: int, stage: int) -> int:
    """``channels * (S - stage) / S``, rounded up."""
    return ceil(Fraction(channels * (factor - stage), factor))


def groups_by_hand(layer) -> torch.Tensor:
    """L1 norms in double precision, by group and channel that it chooses from."""
    weight = layer.weight.detach().double().abs()[:, :, 0, 0]
    rows = weight if isinstance(layer, LGC) else weight.t()
    groups = layer.mask.size(0)
    return torch.stack([rows[group::groups].sum(0) for group in range(groups)])


def weight_by_hand(layer) -> torch.Tensor:
    """The weight without what the mask prunes, entry by entry."""
    weight = layer.weight.detach().clone()
    groups, columns = layer.mask.shape
    for group in range(groups):
        for column in range(columns):
            if not layer.mask[group, column]:
                if isinstance(layer, LGC):
                    weight[group::groups, column] = 0
                else:
                    weight[column, group::groups] = 0
    return weight


# --------------------------------------------------------------------------- strategies

numbers = st.integers(1, 400)
progresses = st.lists(
    st.one_of(
        st.sampled_from([Fraction(0), Fraction(1, 2), Fraction(1)]),
        st.builds(lambda i, n: Fraction(min(i, n), n), numbers, numbers),
    ),
    max_size=5,
)
# Those that the kernels know come first, the more often.
orders = st.one_of(
    st.just(('norm', 'act', 'conv')),
    st.just(('conv', 'norm', 'act')),
    st.permutations(('norm', 'act', 'conv')).map(tuple),
)
layouts = st.sampled_from(['plain', 'plain', 'channels_last', 'turned', 'cut', 'same'])


@dataclass
class Case:
    """A network as configs, what it is given and how it is sparsified."""

    parts: Tuple[Dict[str, Any], ...]
    shape: Tuple[int, int, int, int]
    layout: str
    progress: Tuple[Fraction, ...]
    seed: int

    def build(self, **backbone):
        torch.manual_seed(self.seed)
        # A classifier looks for its parts where the last runner, if any, looked.
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            parts = [MODELS.build(dict(part, **backbone)) for part in self.parts]
        return Network(parts)

    def images(self, channels=None):
        """Random images, laid out in memory in one of several ways."""
        batch, own, height, width = self.shape
        channels = channels or own
        torch.manual_seed(self.seed)
        if self.layout == 'turned':
            return torch.randn(batch, channels, width, height).transpose(2, 3)
        if self.layout == 'cut':
            larger = torch.randn(batch, channels + 2, height + 1, 2 * width)
            return larger[:, 1:-1, 1:, ::2]
        if self.layout == 'same':
            return torch.randn(1, channels, height, width).expand(batch, -1, -1, -1)
        x = torch.randn(batch, channels, height, width)
        if self.layout == 'channels_last':
            x = x.contiguous(memory_format=torch.channels_last)
        return x


class Network(nn.Module):
    """Parts one after another."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return (x,) if isinstance(x, torch.Tensor) else tuple(x)


@st.composite
def archs(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3, 4, 8]))
    sfr_groups = draw(st.sampled_from([None, 1, 2, 3, 4]))
    unit = next(n for n in range(1, 25) if not n % groups and not n % (sfr_groups or 1))
    blocks = draw(st.integers(1, 4))
    each = dict(min_size=blocks, max_size=blocks)
    depths = draw(st.lists(st.integers(1, 3), **each))
    growth = draw(st.lists(st.integers(1, max(1, 30 // unit)), **each))
    rates = [unit * n for n in growth]
    # The narrowest layer has as many inputs as the stem has outputs.
    factors = st.one_of(st.integers(1, 2 * rates[0]), st.just(2 * rates[0]))
    arch = dict(
        depths=tuple(depths),
        growth_rates=tuple(rates),
        groups=groups,
        condense_factor=draw(factors),
        sparse_factor=draw(st.one_of(st.none(), factors, factors)),
    )
    optional = dict(
        sfr_groups=st.just(sfr_groups),
        sfr_order=orders,
        bottleneck=st.integers(1, 4),
        hswish_from=st.one_of(st.none(), st.integers(0, 4)),
        se_from=st.one_of(st.none(), st.integers(0, 4)),
        stem_stride=st.integers(1, 3),
    )
    for name, values in optional.items():
        if name == 'sfr_groups' or draw(st.booleans()):
            arch[name] = draw(values)
    return arch


norms = st.sampled_from(
    [None, None, dict(type='BN', eps=1e-3), dict(type='SyncBN')]
    + [dict(type='GN', num_groups=1)]
)


@st.composite
def backbones(draw, kinds=('CondenseNetV2',)):
    """A backbone's config, the channels of its images and its number of blocks."""
    kind = draw(st.sampled_from(kinds))
    channels = 3
    if kind == 'CondenseNetV2':
        arch = draw(archs())
        blocks = len(arch['depths'])
        channels = draw(st.integers(1, 4))
        cfg = dict(type=kind, arch=arch, in_channels=channels)
    elif kind == 'SFRShuffleNetV2':
        blocks = 4
        # Half of 48 channels in the first units.
        cfg = dict(type=kind, widen_factor=draw(st.sampled_from([0.5, 0.5, 1.0])))
        cfg.update(sparse_factor=draw(st.integers(1, 24)))
        cfg.update(groups=draw(st.integers(1, 60)))
    else:
        blocks = 5
        cfg = dict(type=kind, sparse_factor=draw(st.sampled_from([None, 1, 5, 8, 18])))
        cfg.update(groups=draw(st.integers(1, 60)))
    indices = st.integers(-blocks, blocks - 1)
    returned = draw(st.lists(indices, min_size=1, max_size=blocks, unique=True))
    if draw(st.booleans()):
        returned = returned[:1]
        cfg['out_indices'] = returned[0]
    else:
        cfg['out_indices'] = tuple(returned)
    last = max(i % blocks for i in returned)
    frozen = last + 1 if kind == 'SFRShuffleNetV2' else blocks
    cfg['frozen_stages'] = draw(st.one_of(st.just(-1), st.integers(-1, frozen)))
    cfg['norm_eval'] = draw(st.booleans())
    cfg['with_cp'] = draw(st.booleans())
    cfg['sfr_init'] = draw(st.sampled_from(['identity', 'released']))
    norm = draw(norms)
    if norm is not None and kind == 'CondenseNetV2':
        cfg['norm_cfg'] = norm
    return cfg, channels


def sizes(largest=40):
    return st.one_of(st.integers(1, largest), st.integers(1, 9))


@st.composite
def condensenets(draw):
    """A CondenseNetV2, in a third of the cases with laterals."""
    backbone, channels = draw(backbones())
    parts = [backbone]
    if draw(st.sampled_from([False, False, True])):
        parts.append(draw(laterals(MODELS.build(backbone))))
    return draw(cases(parts, channels))


@st.composite
def laterals(draw, backbone):
    indices = sorted(set(backbone.out_indices))
    widths = [backbone.out_channels[i] for i in indices]
    groups = draw(st.sampled_from([1, 2, 3, 8]))
    number = len(widths)
    wide = st.integers(1, 8).map(lambda n: n * groups)
    factor = st.integers(1, min(widths))
    return dict(
        type='LearnedGroupLaterals',
        in_channels=widths,
        out_channels=draw(
            st.one_of(wide, st.lists(wide, min_size=number, max_size=number))
        ),
        groups=groups,
        condense_factor=draw(
            st.one_of(
                factor,
                st.just(min(widths)),
                st.tuples(*[st.integers(1, width) for width in widths]),
            )
        ),
        order=draw(orders),
        act_cfg=draw(st.sampled_from([None, dict(type='ReLU'), dict(type='HSwish')])),
    )


@st.composite
def cases(draw, parts, channels, largest=40):
    return Case(
        parts=tuple(parts),
        shape=(draw(st.integers(0, 3)), channels, draw(sizes(largest)))
        + (draw(sizes(largest)),),
        layout=draw(layouts),
        progress=tuple(draw(progresses)),
        seed=draw(st.integers(0, 10**6)),
    )


@st.composite
def shufflenets(draw):
    kinds = ('SFRShuffleNetV2', 'ShuffleNetV2Plus')
    backbone, channels = draw(backbones(kinds))
    return draw(cases([backbone], channels))


@st.composite
def classifiers(draw):
    """A backbone, a neck and a head, as mmpretrain runs them."""
    backbone, channels = draw(backbones(('CondenseNetV2',) * 5 + ('SFRShuffleNetV2',)))
    built = MODELS.build(backbone)
    if backbone['type'] == 'CondenseNetV2':
        width = built.out_channels[max(built.out_indices)]
    else:
        wide = backbone['widen_factor'] == 1
        widths = (116, 232, 464, 1024) if wide else (48, 96, 192, 1024)
        width = widths[max(i % 4 for i in built.out_indices)]
    neck = dict(type='mmpretrain.GlobalAveragePooling')
    if draw(st.booleans()):
        neck = dict(type='SEGlobalAveragePooling', channels=width)
        neck['ratio'] = draw(st.integers(1, width))
        neck['norm_cfg'] = draw(st.sampled_from([None, dict(type='BN')]))
    head = dict(num_classes=draw(st.integers(1, 12)), in_channels=width)
    kind = draw(st.sampled_from(['LGC', 'LGC', 'Linear', 'StackedLinear']))
    if kind == 'LGC':
        head.update(type='LGCClsHead')
        head['condense_factor'] = draw(st.integers(1, width))
    elif kind == 'Linear':
        head.update(type='mmpretrain.LinearClsHead')
    else:
        head.update(type='mmpretrain.StackedLinearClsHead')
        head.update(
            mid_channels=[draw(st.integers(1, 20))], act_cfg=dict(type='HSwish')
        )
    classifier = dict(type='mmpretrain.ImageClassifier')
    classifier.update(backbone=backbone, neck=neck, head=head)
    case = draw(cases([classifier], channels))
    if neck['type'] == 'mmpretrain.GlobalAveragePooling':
        # It cannot be given an empty batch.
        case.shape = (max(case.shape[0], 1), *case.shape[1:])
    return case


@st.composite
def modules(draw):
    """LGCModule or SFRModule, and the layer's numbers."""
    is_lgc = draw(st.booleans())
    wide, narrow = draw(st.integers(1, 40)), draw(st.integers(1, 24))
    act = draw(st.sampled_from(['ReLU', 'ReLU', 'HSwish', 'HSwish', 'Sigmoid']))
    cfg = dict(order=draw(orders), act_cfg=dict(type=act), norm_cfg=draw(norms))
    if is_lgc:
        groups = draw(st.integers(1, 8))
        cfg.update(type='LGCModule', in_channels=wide, out_channels=groups * narrow)
        cfg.update(groups=groups, condense_factor=draw(factors_of(wide, groups)))
        if draw(st.booleans()):
            cfg['act_cfg'] = None
    else:
        groups = draw(st.integers(1, 30))
        cfg.update(type='SFRModule', in_channels=narrow, out_channels=wide)
        cfg.update(groups=groups, sparse_factor=draw(factors_of(wide, groups)))
    return draw(cases([cfg], cfg['in_channels'], 12))


def factors_of(channels, groups):
    """Factors that a layer takes, None among them where that stands for one."""
    factors = st.one_of(st.integers(1, channels), st.just(channels))
    return st.one_of(st.none(), factors) if groups <= channels else factors


@st.composite
def layers(draw):
    case = draw(modules())
    cfg = {
        name: value
        for name, value in case.parts[0].items()
        if name not in ('order', 'act_cfg', 'norm_cfg')
    }
    cfg['type'] = cfg['type'].replace('Module', '')
    cfg.update(
        stride=draw(
            st.one_of(
                st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))
            )
        ),
        padding=draw(st.sampled_from([0, 1, (2, 0), 'valid'])),
        dilation=draw(st.integers(1, 3)),
        bias=draw(st.booleans()),
    )
    case.parts = (cfg,)
    return case


# ----------------------------------------------------------------------------- checks


def prune(model, case):
    """Sparsify step by step as told, and check the masks at each step."""
    reached = {}
    sparse = sparse_layers(model)
    for progress in case.progress:
        for name, layer in sparse.items():
            before = layer.mask.clone()
            changed = layer.set_progress(float(progress))
            stage = stage_by_hand(progress, layer.factor)
            reached[name] = max(stage, reached.get(name, 0))
            check_mask(layer, before, reached[name])
            assert changed == (not torch.equal(before, layer.mask))
            # A training would go on, and what is pruned may become the largest.
            nn.init.normal_(layer.weight)


def check_mask(layer, before, stage):
    groups, channels = layer.mask.shape
    kept = kept_by_hand(channels, layer.factor, stage)
    assert layer.mask.sum(1).tolist() == [kept] * groups
    assert layer.kept == kept
    assert not (layer.mask & ~before).any()
    norms = groups_by_hand(layer)
    infinite = float('inf')
    smallest = norms.masked_fill(~layer.mask, infinite).amin(1)
    pruned = norms.masked_fill(layer.mask | ~before, 0).amax(1)
    assert (pruned <= smallest * (1 + 1e-5) + 1e-12).all()


def check_groups(model):
    """LGC has the groups it is asked for, SFR the largest divisor not above."""
    for layer in sparse_layers(model).values():
        assert layer.groups == 1
        if isinstance(layer, SFR):
            assert layer.in_channels % layer.mask.size(0) == 0


def finish(model):
    """Condensing is refused before the end; then bring it there."""
    unfinished = [
        layer
        for layer in sparse_layers(model).values()
        if layer.kept > kept_by_hand(layer.columns, layer.factor, layer.factor - 1)
    ]
    if unfinished:
        seen['unfinished'] += 1
        weights = copy.deepcopy(model.state_dict())
        with pytest.raises(InputError, match='finish the sparsification'):
            condense_layers(model)
        assert_equal(model.state_dict(), weights)
        for layer in unfinished:
            layer.set_progress(1)


def assert_equal(weights, expected):
    assert list(weights) == list(expected)
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def assert_equal_in_double(actual, expected):
    actual, expected = tuple(actual), tuple(expected)
    assert [x.shape for x in actual] == [x.shape for x in expected]
    for a, e in zip(actual, expected):
        largest = float(e.abs().max()) if e.numel() else 0
        torch.testing.assert_close(a, e, rtol=0, atol=1e-10 * largest)


def run_on_kernels(model, *inputs):
    """Run, and see to it that kernels ran where they can."""
    ran = []
    original = KernelMixin.kernel_args

    def watched(module, *args):
        found = original(module, *args)
        ran.append(found is not None)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KernelMixin, 'kernel_args', watched)
        outs = model(*inputs)
    seen['on kernels'] += any(ran)
    return outs


def finished(case, channels=None):
    """A sparse network that is finished, its masks checked on the way there."""
    model = case.build()
    model.eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.bias)
    randomise(model)
    check_groups(model)
    with torch.no_grad():
        prune(model, case)
        finish(model)
    return model


def condensed(model):
    model = copy.deepcopy(model)
    condense_layers(model)
    assert not sparse_layers(model)
    return model.eval()


def smallest_size(cfg) -> int:
    """Height and width below which some map of the network has no pixel."""
    if 'backbone' in cfg:
        cfg = cfg['backbone']
    if cfg['type'] != 'CondenseNetV2':
        return 1
    blocks = len(cfg['arch']['depths'])
    indices = cfg['out_indices']
    indices = [indices] if isinstance(indices, int) else indices
    last = max(i % blocks for i in indices)
    stride = cfg['arch'].get('stem_stride', 2)
    return (2**last - 1) * stride + 1


def check_size(case, *models):
    """Where an image is too small, all forms say so alike."""
    smallest = smallest_size(case.parts[0])
    height, width = case.shape[2:]
    if min(height, width) >= smallest:
        return True
    seen['too small'] += 1
    sentence = f'at least {smallest} x {smallest} pixels.*, got {height} x {width}'
    x = case.images()
    for model in models:
        for enabled in (True, False):
            with ops.use_kernels(enabled), pytest.raises(InputError, match=sentence):
                model(x)
    return False


@torch.no_grad()
def check_network(case):
    sparse = finished(case)
    small = condensed(sparse)
    check_other_forms(case, sparse, small)
    if check_size(case, sparse, small):
        x = case.images()
        check_outputs(sparse, small, x)
    check_step(case)


def check_outputs(sparse, small, *inputs):
    dense = copy.deepcopy(sparse).double()
    for layer in sparse_layers(dense).values():
        layer.weight.copy_(weight_by_hand(layer))
        layer.mask.fill_(True)
    doubles = [x.double() for x in inputs]
    expected = dense(*doubles)
    assert_equal_in_double(copy.deepcopy(sparse).double()(*doubles), expected)
    assert_equal_in_double(copy.deepcopy(small).double()(*doubles), expected)
    before = [x.clone() for x in inputs]
    reference = fallback(small, *inputs)
    assert_close(sparse(*inputs), reference)
    assert_close(run_on_kernels(small, *inputs), reference)
    assert_close(reference, [out.float() for out in expected])
    assert all(torch.equal(x, y) for x, y in zip(inputs, before))


def assert_close(actual, expected):
    seen['outputs compared'] += 1
    if all(out.numel() for out in expected):
        assert_same(actual, expected)
    else:
        seen['empty batches'] += 1
        assert [x.shape for x in actual] == [x.shape for x in expected]


def check_other_forms(case, sparse, small):
    """Each form's state dict makes the same of either form."""
    deploy = build_deployed(case)
    assert {n: v.shape for n, v in deploy.state_dict().items()} == {
        n: v.shape for n, v in small.state_dict().items()
    }
    for weights in (sparse.state_dict(), small.state_dict()):
        deploy.load_state_dict(copy.deepcopy(weights))
        assert_equal(deploy.state_dict(), small.state_dict())
        again = case.build()
        again.load_state_dict(copy.deepcopy(weights))
        ours, others = sparse_layers(again), sparse_layers(sparse)
        for name, layer in others.items():
            assert torch.equal(ours[name].mask, layer.mask)
            assert torch.equal(ours[name].masked_weight(), weight_by_hand(layer))
        assert_equal(condensed(again).state_dict(), small.state_dict())


def build_deployed(case):
    parts = copy.deepcopy(case.parts)
    for part in parts:
        if part['type'] in ('LGC', 'SFR'):
            part['type'] = f'Condensed{part["type"]}'
        elif 'backbone' in part:
            part['backbone']['deploy'] = True
            if part['head']['type'] == 'LGCClsHead':
                part['head']['deploy'] = True
        else:
            part['deploy'] = True
    return replace(case, parts=parts).build()


@torch.enable_grad()
def check_step(case):
    """What a step of training gives gradients to, with and without recomputation."""
    batch, _, height, width = case.shape
    size = 16 * smallest_size(case.parts[0])
    if batch < 2 or not any('with_cp' in part for part in case.parts) or size > 70:
        return
    seen['steps'] += 1
    grads = []
    for with_cp in (False, True):
        for part in case.parts:
            if 'with_cp' in part:
                part['with_cp'] = with_cp
        model = case.build().double()
        randomise(model)
        if any(isinstance(part, nn.SyncBatchNorm) for part in model.modules()):
            return
        model.train()
        torch.manual_seed(case.seed)
        for layer in sparse_layers(model).values():
            layer.set_progress(float(case.progress[-1]) if case.progress else 0.3)
        statistics = {
            name: buffer.clone()
            for name, buffer in model.named_buffers()
            if 'running' in name
        }
        x = torch.randn(batch, case.shape[1], size, size, dtype=torch.double)
        outs = model(x)
        if any(out.requires_grad for out in outs):
            sum(out.square().mean() for out in outs).backward()
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad or parameter.grad is None, name
            # With DDP one that is never reached would be an error.
            assert not parameter.requires_grad or parameter.grad is not None, name
        for layer in sparse_layers(model).values():
            if layer.weight.grad is not None:
                hidden = layer.weight.grad[(weight_by_hand(layer) == 0)]
                assert not hidden.any()
        if all(part.get('norm_eval', True) for part in case.parts):
            for name, buffer in model.named_buffers():
                if name in statistics and 'parts.0' in name:
                    assert torch.equal(buffer, statistics[name]), name
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, grad in grads[0].items():
        other = grads[1][name]
        assert (grad is None) == (other is None), name
        if grad is not None:
            torch.testing.assert_close(other, grad)


@torch.no_grad()
def check_module(case):
    sparse = finished(case).parts[0]
    small = condensed(sparse)
    inputs = (case.images(),)
    if isinstance(sparse, nn.Module) and case.parts[0]['type'] == 'SFRModule':
        inputs = (case.images(sparse.conv.out_channels), *inputs)
    check_outputs(sparse, small, *inputs)


@torch.no_grad()
def check_layer(case):
    sparse = finished(case)
    small = condensed(sparse)
    check_other_forms(case, sparse, small)
    layer, x = sparse.parts[0], case.images().double()
    sparse, small = sparse.double(), small.double()
    expected = nn.functional.conv2d(
        x, weight_by_hand(layer), layer.bias, layer.stride, layer.padding
    )
    assert_equal_in_double(sparse(x), [expected])
    assert_equal_in_double(small(x), [expected])


@torch.no_grad()
def check_exported(settings):
    from mmcdnv2.export.engines import open_engine
    from mmcdnv2.export.tracing import trace

    case, native, gather, dynamic = settings
    network = revert_sync_batchnorm(condensed(finished(case)))
    x = case.images()
    example = torch.cat([x, x]) if dynamic and len(x) == 1 else x
    open_axes = {'x': {0: ('batch', 1)}} if dynamic else {}
    expected = fallback(network, x)
    names = [f'out{i}' for i in range(len(expected))]
    model = trace(
        copy.deepcopy(network), {'x': example}, names, open_axes, native, gather
    )
    seen['native' if native else 'standard'] += 1
    run = open_engine(model.SerializeToString(), 'onnxruntime', 1, native)
    outs = run({'x': x.numpy()})
    assert_close([torch.from_numpy(outs[name]) for name in names], expected)


@st.composite
def exports(draw):
    case = draw(st.one_of(condensenets(), condensenets(), classifiers()))
    # What is too small is no matter of the export.
    smallest = smallest_size(case.parts[0])
    sizes = [max(size, smallest) for size in case.shape[2:]]
    case.shape = (draw(st.integers(1, 3)), case.shape[1], *sizes)
    flags = [draw(st.booleans()) for _ in range(3)]
    return (case, *flags)


@st.composite
def settings_of_any_kind(draw):
    """Settings that need not fit each other."""
    number = st.integers(-1, 9)
    kind = draw(
        st.sampled_from(['LGC', 'SFR', 'LGCModule', 'SFRModule', 'CondenseNet'])
    )
    if kind == 'CondenseNet':
        cfg = draw(backbones())[0]
        names = sorted(set(cfg['arch']) | {'bottleneck', 'stem_stride', 'se_from'})
        values = st.one_of(st.none(), number, st.lists(number, max_size=3))
        for name in draw(st.lists(st.sampled_from(names), max_size=2)):
            cfg['arch'][name] = draw(values)
        if draw(st.booleans()):
            cfg['out_indices'] = draw(st.lists(number, max_size=2))
            cfg['frozen_stages'] = draw(number)
        return cfg
    factor = 'condense_factor' if 'LGC' in kind else 'sparse_factor'
    names = ('in_channels', 'out_channels', 'groups', factor)
    cfg = dict({name: draw(number) for name in names}, type=kind)
    if 'Module' in kind:
        parts = st.sampled_from(('conv', 'norm', 'act'))
        cfg['order'] = draw(st.one_of(orders, st.lists(parts, max_size=4)))
    return cfg


@torch.no_grad()
def check_refused(cfg):
    """Settings are refused in a sentence, or the layer can be run and condensed."""
    try:
        module = MODELS.build(copy.deepcopy(cfg)).eval()
    except InputError as error:
        seen['refused settings'] += 1
        assert str(error).endswith('.')
        return
    inputs = [torch.randn(1, cfg['in_channels'], 80, 80)]
    if cfg['type'] == 'SFRModule':
        inputs.insert(0, torch.randn(1, cfg['out_channels'], 80, 80))
    for layer in sparse_layers(module).values():
        layer.set_progress(1)
    small = condensed(nn.Sequential(module))[0]
    expected, actual = module(*inputs), small(*inputs)
    if isinstance(expected, torch.Tensor):
        actual, expected = [actual], [expected]
    assert_same(actual, expected)
