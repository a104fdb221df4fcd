"""LGC and SFR: counts, masks, and equal outputs of both forms."""

import copy
import random

import pytest
import torch
from conftest import randomise
from mmcv.cnn import ConvModule, build_conv_layer
from torch import nn

from mmcdnv2.errors import InputError
from mmcdnv2.layers import (
    LGC,
    SFR,
    condense_layers,
    kept_fraction,
    sparse_layers,
    stage_of,
)
from mmcdnv2.layers.grouping import kept_columns


def naive_masked_weight(layer):
    """Apply the mask entry by entry, as the method defines it."""
    weight = layer.weight.detach().clone()
    for o in range(layer.out_channels):
        for i in range(layer.in_channels):
            if isinstance(layer, LGC):
                keep = layer.mask[o % layer.mask_groups, i]
            else:
                keep = layer.mask[i % layer.mask_groups, o]
            if not keep:
                weight[o, i] = 0
    return weight


def random_layers(count):
    """Yield layers of random shapes, also with channels that groups do not divide."""
    rng = random.Random(0)
    for _ in range(count):
        groups = rng.choice([1, 2, 3, 4, 8])
        factor = rng.choice([1, 2, 3, 5, 8])
        bias = rng.random() < 0.5
        wide = rng.randint(8, 40)
        yield LGC(
            wide,
            groups * rng.randint(1, 6),
            groups=groups,
            condense_factor=factor,
            bias=bias,
        )
        yield SFR(
            rng.randint(1, 24), wide, groups=groups, sparse_factor=factor, bias=bias
        )


@pytest.mark.parametrize(
    ('progress', 'factor', 'stage'),
    [
        (0, 8, 0),
        (0.07, 8, 0),
        (1 / 14, 8, 1),
        (0.3, 6, 3),  # 2 * 0.3 * 5 is 2.9999... in floating point
        (0.4999, 8, 6),
        (0.5, 8, 7),
        (1, 8, 7),
        (1, 1, 0),
    ],
)
def test_stage_of(progress, factor, stage):
    assert stage_of(progress, factor) == stage


def test_stage_of_another_schedule():
    stages = [stage_of(i / 20, 5, begin=0.1, end=0.3) for i in range(21)]
    assert stages == [0] * 3 + [1, 2, 3] + [4] * 15


@pytest.mark.parametrize('progress', [-0.1, 1.1, float('nan')])
def test_rejects_progress_out_of_range(progress):
    with pytest.raises(InputError, match='progress must be in'):
        LGC(8, 8).set_progress(progress)


@pytest.mark.parametrize('layer', random_layers(12), ids=repr)
@torch.no_grad()
def test_sparse_and_condensed_match_the_definition(layer):
    x = torch.randn(2, layer.in_channels, 5, 3)
    columns = layer.columns
    for progress in (0.2, 0.37, 1):
        layer.set_progress(progress)
        expected = torch.nn.functional.conv2d(x, naive_masked_weight(layer), layer.bias)
        torch.testing.assert_close(layer(x), expected)
        stage = stage_of(progress, layer.factor)
        # ceil(columns * (factor - stage) / factor), the same in every group
        kept = -(-columns * (layer.factor - stage) // layer.factor)
        assert layer.mask.sum(1).tolist() == [kept] * layer.mask_groups
        assert layer.stage >= stage
    condensed = layer.condense()
    torch.testing.assert_close(condensed(x), expected, atol=1e-5, rtol=1e-5)
    members = layer.weight.numel() // layer.mask.numel()
    assert condensed.weight.numel() == layer.mask_groups * members * layer.final_kept


@pytest.mark.parametrize('kind', [LGC, SFR])
@pytest.mark.parametrize('channels', [(0, 8), (8, 0), (-1, 8)])
def test_rejects_layers_without_channels(kind, channels):
    with pytest.raises(InputError, match='needs at least 1 input channel and 1 output'):
        kind(*channels, 1)


@pytest.mark.parametrize('kind', [LGC, SFR])
def test_rejects_condensing_a_single_layer_in_place(kind):
    layer = kind(8, 8, groups=2)
    layer.set_progress(1)
    with pytest.raises(
        InputError, match=f'{kind.__name__} cannot replace itself in place'
    ):
        condense_layers(layer)
    assert not list(layer.children())


def test_prunes_the_smallest_l1_norms():
    lgc = LGC(4, 4, groups=2, condense_factor=2, bias=False)
    # Filters 0 and 2 are group 0, filters 1 and 3 are group 1.
    lgc.weight.data[:, :, 0, 0] = torch.tensor(
        [[3.0, -1, 0, 2], [0, 5, 1, 1], [3, -1, 5, 2], [0, 5, 2, -4]]
    )
    lgc.set_progress(1)
    assert lgc.mask.int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]
    sfr = SFR(4, 4, groups=2, sparse_factor=2, bias=False)
    sfr.weight.data = lgc.weight.data.transpose(0, 1).contiguous()
    sfr.set_progress(1)
    assert torch.equal(sfr.mask, lgc.mask)


def test_ranks_by_l1_norm():
    lgc = LGC(2, 2, groups=1, condense_factor=2, bias=False)
    # The second column has the smaller L2 norm and the larger L1 norm.
    lgc.weight.data[:, :, 0, 0] = torch.tensor([[3.0, 2], [0, 2]])
    lgc.set_progress(1)
    assert lgc.mask.int().tolist() == [[0, 1]]


def test_zero_pruned_overwrites_nan():
    for layer in (LGC(4, 6, groups=2), SFR(4, 6, groups=2)):
        layer.set_progress(1)
        kept = layer.masked_weight().detach() != 0
        values = torch.where(kept, 2.0, float('nan'))
        layer.zero_pruned(values)
        assert torch.equal(values, 2.0 * kept)


@pytest.mark.parametrize('kind', [LGC, SFR])
def test_index_ascends(kind):
    layer = kind(8, 8, groups=2)
    layer.set_progress(1)
    # As if pruned further by other code.
    layer.mask[0, layer.mask[0].nonzero()[-1]] = False
    rows = layer.condense().index.view(2, -1)
    assert (rows.diff(dim=1) > 0).all()


@pytest.mark.parametrize('kind', [LGC, SFR])
def test_rejects_a_single_unfinished_group(kind):
    layer = kind(8, 8, groups=2)
    layer.set_progress(1)
    layer.mask[1] = True
    condensed = kind.condensed_type(8, 8, groups=2)
    with pytest.raises(InputError, match='finish the sparsification'):
        condensed.load_state_dict(layer.state_dict())


def test_pruned_channels_never_return():
    layer = LGC(16, 8, groups=2, condense_factor=8)
    masks = []
    for progress in (0.1, 0.3, 0.2, 0.5, 0):
        layer.set_progress(progress)
        masks.append(layer.mask.clone())
        # Pruned channels stay pruned, however the weights change.
        torch.nn.init.normal_(layer.weight)
    for earlier, later in zip(masks, masks[1:]):
        assert not (later & ~earlier).any()
    assert layer.kept == 2


def test_skipped_stages_are_caught_up():
    stepped = SFR(8, 24, groups=4, sparse_factor=4)
    jumped = copy.deepcopy(stepped)
    for step in range(101):
        stepped.set_progress(step / 100)
    assert jumped.set_progress(1)
    assert torch.equal(stepped.mask, jumped.mask)
    assert not jumped.set_progress(1)


def test_sfr_groups_for_indivisible_channels():
    # ShuffleNetV2 1.0x: 58 outputs, sparse_factor 8; 58 = 2 * 29 inputs.
    layer = SFR(58, 58, groups=8, sparse_factor=8)
    assert layer.mask_groups == 2
    layer.set_progress(1)
    assert layer.kept == 8


def test_group_lasso():
    layer = LGC(3, 2, groups=1, condense_factor=3)
    layer.weight.data[:, :, 0, 0] = torch.tensor([[3.0, 5, 0], [4, 12, 0]])
    assert layer.group_lasso().item() == pytest.approx(5 + 13)
    layer.mask[0, 0] = False
    loss = layer.group_lasso()
    assert loss.item() == pytest.approx(13)
    loss.backward()
    expected = torch.tensor([[0, 5 / 13, 0], [0, 12 / 13, 0]])
    torch.testing.assert_close(layer.weight.grad[:, :, 0, 0], expected)


def test_pruned_weights_get_no_gradient():
    layer = SFR(4, 8, groups=2, sparse_factor=4)
    layer.set_progress(1)
    layer(torch.randn(1, 4, 2, 2)).square().sum().backward()
    pruned = naive_masked_weight(layer) == 0
    assert (layer.weight.grad[pruned] == 0).all()
    assert (layer.weight.grad[~pruned] != 0).all()


@pytest.mark.parametrize('layer', random_layers(4), ids=repr)
def test_condensed_gives_the_same_gradients(layer):
    layer.set_progress(1)
    condensed = layer.condense()
    x = torch.randn(2, layer.in_channels, 4, 4)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for module, leaf in zip((layer, condensed), inputs):
        module(leaf).square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, atol=1e-4, rtol=1e-4)
    # The kept weights' gradients are equal up to their order.
    kept = layer.weight.grad[layer.masked_weight() != 0]
    torch.testing.assert_close(
        condensed.weight.grad.flatten().sort().values,
        kept.sort().values,
        atol=1e-3,
        rtol=1e-4,
    )


@pytest.mark.parametrize('layer_type', ['LGC', 'SFR'])
@torch.no_grad()
def test_in_conv_module(layer_type):
    factor = dict(LGC='condense_factor', SFR='sparse_factor')[layer_type]
    cfg = dict(type=layer_type, **{factor: 4})
    module = ConvModule(
        16,
        16,
        1,
        groups=4,
        conv_cfg=cfg,
        norm_cfg=dict(type='BN'),
        order=('norm', 'act', 'conv'),
    ).eval()
    module.conv.set_progress(1)
    x = torch.randn(2, 16, 4, 4)
    expected = module(x)
    condense_layers(module)
    assert not hasattr(module.conv, 'mask')
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)

    deployed = build_conv_layer(
        dict(cfg, type=f'Condensed{layer_type}'), 16, 16, 1, groups=4, bias=False
    )
    deployed.load_state_dict(module.conv.state_dict())
    x = torch.randn(1, 16, 3, 3)
    assert torch.equal(deployed(x), module.conv(x))


@pytest.mark.parametrize(
    'layer',
    [
        LGC(24, 16, groups=4, condense_factor=4),
        SFR(16, 26, groups=4, sparse_factor=4),
    ],
    ids=['LGC', 'SFR'],
)
@torch.no_grad()
def test_either_form_loads_either_form(layer):
    layer.set_progress(1)
    condensed = layer.condense()
    x = torch.randn(1, layer.in_channels, 4, 4)

    factor = {layer.factor_name: layer.factor}
    arguments = (layer.in_channels, layer.out_channels)
    fresh = type(layer)(*arguments, groups=layer.mask_groups, **factor)
    fresh.load_state_dict(condensed.state_dict())
    assert torch.equal(fresh.mask, layer.mask)
    torch.testing.assert_close(fresh(x), layer(x))

    deployed = layer.condensed_type(*arguments, groups=layer.mask_groups, **factor)
    deployed.load_state_dict(layer.state_dict())
    assert torch.equal(deployed.index, condensed.index)
    assert torch.equal(deployed(x), condensed(x))


def test_rejects_unfinished_layers():
    model = torch.nn.Sequential(LGC(16, 8, groups=4), LGC(8, 8, groups=4))
    model[0].set_progress(1)
    model[1].set_progress(0.3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match='keeps 6 of 8 channels .* down to 2'):
        condense_layers(model)
    assert model.state_dict().keys() == before.keys()
    with pytest.raises(InputError, match='finish the sparsification'):
        LGC.condensed_type(8, 8, groups=4).load_state_dict(model[1].state_dict())


class Shared(nn.Module):
    """A layer with several names: in two modules, and in a module used twice."""

    def __init__(self):
        super().__init__()
        self.first = LGC(8, 8, groups=4)
        self.second = self.first
        self.block = nn.Sequential(self.first, SFR(8, 8, groups=4))
        self.again = self.block

    def forward(self, x):
        return self.again(self.block(self.second(self.first(x))))


@torch.no_grad()
def test_condenses_a_shared_layer_under_all_names():
    model = Shared()
    for layer in sparse_layers(model).values():
        layer.set_progress(1)
    x = torch.randn(1, 8, 3, 3)
    expected = model(x)
    condense_layers(model)
    names = model.named_modules(remove_duplicate=False)
    assert not [name for name, layer in names if hasattr(layer, 'mask')]
    assert model.first is model.second is model.block[0]
    assert model.block is model.again
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    'layer',
    [
        LGC(24, 16, groups=4, condense_factor=4),
        SFR(16, 26, groups=4, sparse_factor=4),
    ],
    ids=['LGC', 'SFR'],
)
@torch.no_grad()
def test_groups_that_keep_different_counts(layer):
    """Other pruning code may leave such masks."""
    layer = copy.deepcopy(layer)
    x = torch.randn(1, layer.in_channels, 4, 4)
    layer.mask[0, 3:] = False
    layer.mask[1, 9:] = False
    before = layer.mask.clone()
    for progress in (0.3, 1):
        layer.set_progress(progress)
        assert not (layer.mask & ~before).any()
        kept = kept_columns(layer.columns, 4, stage_of(progress, 4))
        expected = before.sum(1).clamp(max=kept)
        assert torch.equal(layer.mask.sum(1), expected)
        assert layer.kept == kept
    assert layer.is_finished
    condensed = layer.condense()
    torch.testing.assert_close(condensed(x), layer(x), atol=1e-5, rtol=1e-5)
    index = condensed.index.view(layer.mask_groups, -1)
    for columns, mask in zip(index.tolist(), layer.mask):
        assert len(set(columns)) == layer.final_kept
        assert set(mask.nonzero().flatten().tolist()) <= set(columns)
    deployed = layer.condensed_type(
        layer.in_channels, layer.out_channels, groups=4, **{layer.factor_name: 4}
    )
    deployed.load_state_dict(dict(layer.state_dict(), mask=layer.mask.float()))
    assert torch.equal(deployed(x), condensed(x))


@pytest.mark.parametrize('kind', ['LGC', 'SFR'])
@torch.no_grad()
def test_mmcv_efficient_conv_bn_eval(kind):
    """mmcv folds the norm into the weight in each call."""
    module = ConvModule(
        16,
        8,
        1,
        groups=4,
        conv_cfg=dict(type=kind),
        norm_cfg=dict(type='BN'),
        efficient_conv_bn_eval=True,
    ).eval()
    randomise(module)
    module.conv.set_progress(1)
    x = torch.randn(1, 16, 4, 4)
    expected = module.activate(module.norm(module.conv(x)))
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


def test_mask_is_a_bool_buffer():
    layer = LGC(32, 64, groups=4)
    layer.set_progress(0.4)
    assert layer.mask.dtype == torch.bool
    assert layer.mask.shape == (4, 32)
    half = copy.deepcopy(layer).half()
    assert half.mask.dtype == torch.bool
    restored = LGC(32, 64, groups=4)
    restored.load_state_dict(layer.state_dict())
    assert torch.equal(restored.mask, layer.mask)
    assert restored.stage == layer.stage == 2


def test_kept_fraction():
    model = torch.nn.Sequential(
        LGC(16, 8, groups=4, condense_factor=4), torch.nn.Conv2d(8, 8, 1)
    )
    assert kept_fraction(model) == 1
    model[0].set_progress(1)
    assert kept_fraction(model) == 0.25
    assert kept_fraction(model[1]) == 1
    # As if other code pruned one of the groups further.
    model[0].mask[0] = False
    assert kept_fraction(model) == 0.25 * 3 / 4


@pytest.mark.parametrize('kind', [LGC, SFR])
def test_looks_like_a_dense_convolution(kind):
    """FLOP counters read groups and channels, not the weight's shape."""
    layer = kind(16, 24, groups=4)
    filters = layer.out_channels // layer.groups
    assert layer.in_channels * filters == layer.weight.numel()
    module = ConvModule(16, 24, 1, groups=4, conv_cfg=dict(type=kind.__name__))
    assert module.groups == 1
    assert module.conv.mask_groups == 4


def test_stages():
    layer = LGC(16, 8, groups=4)
    assert layer.set_stage(2)
    assert (layer.stage, layer.kept) == (2, 8)
    assert not layer.set_stage(1)
    with pytest.raises(InputError, match=r'stage of LGC must be in \[0, 3\], got 4'):
        layer.set_stage(4)


@pytest.mark.parametrize(
    ('build', 'sentence'),
    [
        (lambda: LGC(8, 6, groups=4), '6 output channels into 4 equal groups'),
        (lambda: LGC(8, 8, 3), 'is a 1x1 convolution, got kernel_size=3'),
        (lambda: LGC(8, 8, condense_factor=9), r'condense_factor must be in \[1, 8\]'),
        (lambda: SFR(8, 4, sparse_factor=5), r'sparse_factor must be in \[1, 4\]'),
        (lambda: SFR(8, 4, groups=0), 'groups of at least 1'),
        (lambda: LGC.condensed_type(8, 6, groups=4), 'into 4 equal groups'),
    ],
)
def test_rejects_bad_arguments(build, sentence):
    with pytest.raises(InputError, match=sentence):
        build()


@pytest.mark.parametrize('kind', [LGC, SFR])
def test_rejects_a_state_dict_without_weight(kind):
    sparse = kind(8, 8, groups=4)
    sparse.set_progress(1)
    condensed = sparse.condense()
    for layer, other in ((sparse, condensed), (condensed, sparse)):
        state = other.state_dict()
        del state['weight']
        with pytest.raises(RuntimeError, match=r'Missing key.*"weight"'):
            layer.load_state_dict(state)


def finished(kind):
    layer = kind(16, 24, groups=4)
    layer.set_progress(1)
    return layer


@pytest.mark.parametrize('kind', [LGC, SFR])
@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (lambda index: index.fill_(24), 'has channel 24, expected 0 to'),
        (lambda index: index.neg() - 1, 'has channel -'),
        (lambda index: index.clone().fill_(3), 'repeats a channel in group 0'),
        (lambda index: index.float(), 'must be int64 or int32, got torch.float32'),
        (lambda index: index > 0, 'must be int64 or int32, got torch.bool'),
    ],
)
def test_rejects_an_invalid_index(kind, change, sentence):
    layer = finished(kind)
    condensed = layer.condense()
    weights = condensed.state_dict()
    bad = dict(weights, index=change(weights['index'].clone()))
    for target in (condensed, kind(16, 24, groups=4)):
        before = copy.deepcopy(target.state_dict())
        with pytest.raises(InputError, match=f'^index .*{sentence}'):
            target.load_state_dict(bad)
        for name, value in target.state_dict().items():
            assert torch.equal(value, before[name])


@pytest.mark.parametrize('kind', [LGC, SFR])
@torch.no_grad()
def test_accepts_an_index_in_any_order(kind):
    """The index of a new condensed layer need not ascend."""
    condensed = finished(kind).condense().eval()
    x = torch.randn(2, 16, 5, 5)
    expected = condensed(x)
    weights = condensed.state_dict()
    rows = weights['index'].view(4, -1).flip(1)
    entries = condensed.from_group_conv(weights['weight'], 4).flip(2)
    turned = dict(
        weights, index=rows.flatten(), weight=condensed.to_group_conv(entries)
    )
    for target in (condensed, kind(16, 24, groups=4)):
        target.load_state_dict(dict(turned))
        torch.testing.assert_close(target(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('kind', [LGC, SFR])
@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (lambda mask: mask.index_fill(0, torch.tensor([2]), 0), 'in group 2 of 4'),
        (lambda mask: mask * 0.5, 'neither 0 nor 1'),
        (lambda mask: mask.int() * 2, 'neither 0 nor 1'),
        (lambda mask: mask * float('nan'), 'neither 0 nor 1'),
    ],
)
def test_rejects_an_invalid_mask(kind, change, sentence):
    layer = finished(kind)
    weights = layer.state_dict()
    bad = dict(weights, mask=change(weights['mask']))
    for target in (layer, layer.condense()):
        with pytest.raises(InputError, match=f'^mask .*{sentence}'):
            target.load_state_dict(bad)
    half = dict(weights, mask=weights['mask'].half())
    layer.load_state_dict(half)
    assert torch.equal(layer.mask, weights['mask'])


@pytest.mark.parametrize('kind', [LGC, SFR])
def test_rejects_sparse_weights_of_another_shape(kind):
    condensed = finished(kind).condense()
    other = kind(16, 48, groups=4) if kind is LGC else kind(32, 24, groups=4)
    other.set_progress(1)
    with pytest.raises(RuntimeError, match='mask'):
        condensed.load_state_dict(other.state_dict())
