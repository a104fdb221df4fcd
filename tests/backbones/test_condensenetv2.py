"""CondenseNetV2 compared with the authors' network and the paper's tables."""

import copy
import logging

import pytest
import torch
from conftest import randomise
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from reference import (
    load_reference,
    mask_crc32,
    official_state_dict,
    reference_images,
)
from torchvision.models.feature_extraction import create_feature_extractor

from mmcdnv2 import ops
from mmcdnv2.backbones import CondenseNetV2
from mmcdnv2.complexity import count_macs, count_params
from mmcdnv2.converters import convert_official
from mmcdnv2.errors import InputError
from mmcdnv2.layers import LGC, condense_layers, sparse_layers

TINY = dict(
    depths=(1, 2, 2),
    growth_rates=(8, 8, 16),
    groups=4,
    condense_factor=4,
    sparse_factor=4,
    hswish_from=1,
    se_from=2,
)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    backbone = CondenseNetV2(TINY, out_indices=(0, 1, 2))
    randomise(backbone)
    return backbone


def build_classifier(configs, arch, **backbone):
    cfg = Config.fromfile(configs / f'cdnv2_{arch}_8xb128_in1k.py')
    init_default_scope('mmpretrain')
    cfg.model.backbone.update(backbone)
    return MODELS.build(cfg.model).eval()


def assert_logits(model, expected):
    with torch.no_grad():
        logits = model(reference_images(), mode='tensor')[0]
    torch.testing.assert_close(
        logits[:8], torch.tensor(expected['first8']), atol=1e-4, rtol=0
    )
    assert logits.mean().item() == pytest.approx(expected['mean'], abs=1e-4)
    assert logits.std(unbiased=False).item() == pytest.approx(expected['std'], abs=1e-4)


@pytest.mark.parametrize('arch', ['a', 'b'])
def test_matches_the_authors_network_at_every_stage(configs, arch):
    reference = load_reference(arch)
    model = build_classifier(configs, arch)
    state_dict = convert_official(dict(state_dict=official_state_dict(arch)))[2]
    model.load_state_dict(state_dict)
    layers = sparse_layers(model)
    assert len(layers) == len(reference['progress']['0.00']['kept'])
    last_kept = 0
    for progress, expected in reference['progress'].items():
        for layer in layers.values():
            layer.set_progress(float(progress))
        if 'kept' in expected:
            assert_logits(model, expected['logits'])
            # Both are in network order.
            order = zip(layers.values(), expected['kept'].items())
            for layer, (name, kept) in order:
                actual = layer.weight.numel() * layer.kept // layer.columns
                assert actual == kept, name
                assert mask_crc32(copy.deepcopy(layer)) == expected['crc32'][name]
            last_kept = sum(expected['kept'].values())
        else:
            total = sum(m.weight.numel() * m.kept // m.columns for m in layers.values())
            assert total == last_kept
    assert_logits(model, expected['logits'])
    condense_layers(model)
    assert_logits(model, reference['converted']['logits'])
    assert count_params(model) == reference['official_measure']['params']


@pytest.mark.parametrize(
    ('arch', 'channels', 'params', 'megamacs'),
    [
        ('a', [24, 32, 96, 288, 800], 2038444, 43.14),
        ('b', [24, 72, 216, 600, 1176], 3592662, 140.47),
        ('c', [48, 144, 400, 1040, 2064], 6177512, 295.79),
    ],
)
def test_costs_match_the_paper(configs, arch, channels, params, megamacs):
    model = build_classifier(configs, arch, deploy=True)
    assert model.backbone.out_channels == channels
    assert count_params(model) == params
    macs = count_macs(model, torch.rand(1, 3, 224, 224))
    assert macs / 1e6 == pytest.approx(megamacs, abs=0.005)


@torch.no_grad()
def test_outputs(tiny):
    tiny.eval()
    x = torch.randn(2, 3, 36, 20)
    stem = tiny.stem(x)
    first = tiny.blocks[0](stem)
    second = torch.nn.functional.avg_pool2d(first, 2)
    for name in '01':
        second = getattr(tiny.blocks[1], name)(second)
    third = torch.nn.functional.avg_pool2d(second, 2)
    for name in '01':
        third = getattr(tiny.blocks[2], name)(third)
    outs = tiny(x)
    assert torch.equal(outs[0], first)
    assert torch.equal(outs[1], second)
    assert torch.equal(outs[2], tiny.blocks[2].norm(third).relu())
    assert [out.shape[1:] for out in outs] == [(24, 18, 10), (40, 9, 5), (72, 4, 2)]
    assert tiny.out_channels == [24, 40, 72]

    tiny.out_indices = (2,)
    assert torch.equal(tiny(x)[0], outs[2])
    last = CondenseNetV2(TINY, out_indices=(-1,)).eval()
    last.load_state_dict(tiny.state_dict())
    assert torch.equal(last(x)[0], outs[2])


@torch.no_grad()
@pytest.mark.parametrize('size', [(6, 40), (40, 6), (1, 1), (0, 40)])
def test_rejects_small_images_in_all_forms(tiny, size):
    tiny.eval()
    # The stem's stride of 2 maps 7 pixels to 4, and two poolings map 4 to 1.
    tiny(torch.rand(1, 3, 7, 7))
    small = copy.deepcopy(tiny)
    for layer in sparse_layers(small).values():
        layer.set_progress(1)
    small.switch_to_deploy()
    sentence = (
        'CondenseNetV2 with 2 poolings needs images of at least 7 x 7 pixels, got '
        f'{size[0]} x {size[1]}: resize or pad them, or return earlier blocks with '
        'out_indices.'
    )
    for enabled in (True, False):
        for network in (tiny, small):
            with ops.use_kernels(enabled), pytest.raises(InputError) as error:
                network(torch.rand(1, 3, *size))
            assert str(error.value) == sentence


def check_graph(network, graph, size):
    """Compare a network and its graph: outputs, and gradients in training."""
    images = torch.rand(2, 3, *size)
    pairs = []
    for module in (copy.deepcopy(network), graph):
        inputs = images.clone().requires_grad_()
        outs = module(inputs)
        sum(out.sum() for out in outs).backward()
        pairs.append([*outs, inputs.grad])
    for actual, expected in zip(*pairs):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize('form', ['sparse', 'condensed'])
@pytest.mark.parametrize('sparse_factor', [4, None], ids=['v2', 'v1'])
def test_torch_fx_traces(sparse_factor, form, mode, with_cp):
    torch.manual_seed(0)
    arch = dict(TINY, sparse_factor=sparse_factor)
    backbone = CondenseNetV2(arch, out_indices=(0, 2), with_cp=with_cp)
    randomise(backbone)
    for layer in sparse_layers(backbone).values():
        layer.set_progress(1)
    if form == 'condensed':
        backbone.switch_to_deploy()
    backbone.train(mode == 'train')
    graph = torch.fx.symbolic_trace(backbone)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    # The graph is not bound to the size of an image.
    for size in ((32, 32), (48, 40)):
        check_graph(backbone, graph, size)


@pytest.mark.parametrize('arch', ['a', 'cifar-110', 'v1-74-g4', 'v1-cifar-50'])
def test_torch_fx_traces_every_kind_of_arch(arch):
    with torch.no_grad(), torch.device('meta'):
        backbone = CondenseNetV2(arch).eval()
        graph = torch.fx.symbolic_trace(backbone)
        (out,) = graph(torch.empty(1, 3, 64, 64))
        assert out.shape[1] == backbone.out_channels[-1]


@torch.no_grad()
@pytest.mark.parametrize('form', ['sparse', 'condensed'])
def test_features_are_extracted_by_name(tiny, form):
    for layer in sparse_layers(tiny).values():
        layer.set_progress(1)
    if form == 'condensed':
        tiny.switch_to_deploy()
    names = {'stem.conv': 'stem', 'blocks.0.0.cat': 'first', 'blocks.2.act': 'last'}
    extractor = create_feature_extractor(tiny, names).eval()
    tiny.eval()
    x = torch.rand(2, 3, 48, 32)
    features = extractor(x)
    first, _, last = tiny(x)
    torch.testing.assert_close(features['stem'], tiny.stem(x))
    torch.testing.assert_close(features['first'], first, atol=1e-4, rtol=0)
    torch.testing.assert_close(features['last'], last, atol=1e-4, rtol=0)
    traced = torch.jit.trace(tiny, x)
    torch.testing.assert_close(traced(x), tiny(x), atol=1e-4, rtol=0)


@torch.no_grad()
def test_dense_layer_matches_the_paper(tiny):
    layer = getattr(tiny.eval().blocks[2], '1')
    x = torch.randn(1, 56, 4, 4)
    hidden = layer.lgc.conv(torch.nn.functional.hardswish(layer.lgc.bn(x)))
    new = layer.conv.conv(torch.nn.functional.hardswish(layer.conv.bn(hidden)))
    squeezed = layer.se.conv1.conv(new.mean((2, 3), keepdim=True)).relu()
    new = new * layer.se.conv2.conv(squeezed).sigmoid()
    old = x + layer.sfr.conv(torch.nn.functional.hardswish(layer.sfr.bn(new)))
    torch.testing.assert_close(layer(x), torch.cat([old, new], 1))


@torch.no_grad()
def test_switch_to_deploy(tiny):
    tiny.eval()
    assert not tiny.deploy
    with pytest.raises(InputError, match='before it can be condensed'):
        tiny.switch_to_deploy()
    assert not tiny.deploy
    for layer in sparse_layers(tiny).values():
        layer.set_progress(1)
    x = torch.randn(2, 3, 48, 32)
    expected = tiny(x)
    sparse_weights = copy.deepcopy(tiny.state_dict())
    tiny.switch_to_deploy()
    assert tiny.deploy
    for out, other in zip(tiny(x), expected):
        torch.testing.assert_close(out, other, atol=1e-4, rtol=0)

    # Either form of the network loads either form of the checkpoint.
    fresh = CondenseNetV2(TINY, out_indices=(0, 1, 2), deploy=True).eval()
    assert fresh.deploy
    for weights in (tiny.state_dict(), sparse_weights):
        fresh.load_state_dict(weights)
        torch.testing.assert_close(fresh(x)[2], tiny(x)[2])
    sparse = CondenseNetV2(TINY, out_indices=(0, 1, 2)).eval()
    sparse.load_state_dict(tiny.state_dict())
    torch.testing.assert_close(sparse(x), expected)


@pytest.mark.parametrize('form', ['sparse', 'condensed'])
def test_pretrained_init_keeps_the_masks(tiny, tmp_path, form):
    for layer in sparse_layers(tiny).values():
        layer.set_progress(1)
    masks = {name: m.mask.clone() for name, m in sparse_layers(tiny).items()}
    expected = tiny.eval()(torch.ones(1, 3, 32, 32))[2]
    if form == 'condensed':
        tiny.switch_to_deploy()
    path = tmp_path / 'classifier.pth'
    weights = {f'backbone.{k}': v for k, v in tiny.state_dict().items()}
    torch.save(dict(state_dict={**weights, 'head.fc.weight': torch.ones(2)}), path)

    detector = CondenseNetV2(
        TINY,
        init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix='backbone.'),
    )
    detector.init_weights()
    for name, layer in sparse_layers(detector).items():
        assert torch.equal(layer.mask, masks[name])
        assert not layer.set_progress(0.3)
    actual = detector.eval()(torch.ones(1, 3, 32, 32))[0]
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('form', ['sparse', 'condensed'])
@pytest.mark.parametrize(
    ('stored_under', 'settings'),
    [
        ('', {}),
        ('module.', {}),
        ('backbone.', dict(prefix='backbone')),
        ('module.backbone.', dict(prefix='module.backbone')),
        ('', dict(type=PretrainedInit, map_location='cpu')),
    ],
)
def test_pretrained_init_accepts_all_that_mmengine_accepts(
    tiny, tmp_path, stored_under, settings, form
):
    for layer in sparse_layers(tiny).values():
        layer.set_progress(1)
    expected = tiny.eval()(torch.ones(1, 3, 32, 32))
    if form == 'condensed':
        tiny.switch_to_deploy()
    weights = {f'{stored_under}{k}': v for k, v in tiny.state_dict().items()}
    path = str(tmp_path / 'checkpoint.pth')
    init_cfg = {'type': 'Pretrained', 'checkpoint': path, **settings}
    for content, cfg, deploy in (
        (dict(state_dict=weights), init_cfg, False),
        (weights, [dict(type='Constant', layer='LGC', val=1), init_cfg], True),
    ):
        torch.save(content, path)
        outputs = dict(out_indices=(0, 1, 2), init_cfg=cfg)
        backbone = CondenseNetV2(TINY, deploy=deploy, **outputs)
        backbone.init_weights()
        for actual, output in zip(backbone.eval()(torch.ones(1, 3, 32, 32)), expected):
            torch.testing.assert_close(actual, output)


def test_initial_weights():
    torch.manual_seed(0)
    backbone = CondenseNetV2('b', sfr_init='released')
    logging.disable(logging.INFO)
    backbone.init_weights()
    logging.disable(logging.NOTSET)
    convs = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    for conv in convs:
        if conv.weight.numel() < 5000:
            continue
        fan_out = conv.weight.shape[0] * conv.weight[0, 0].numel()
        std = conv.weight.std().item()
        assert std == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)


def test_frozen_stages_and_norm_eval():
    x = torch.randn(2, 3, 32, 32)
    backbone = CondenseNetV2(TINY, frozen_stages=2, norm_eval=True).train()
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD(backbone.parameters(), 0.1, weight_decay=0.1)
    backbone(x)[0].sum().backward()
    optimizer.step()
    changed = {
        name
        for name, value in backbone.state_dict().items()
        if not torch.equal(value, before[name])
    }
    # norm_eval also freezes the running statistics.
    trainable = {n for n, _ in backbone.named_parameters() if 'blocks.2' in n}
    assert changed >= {n for n in trainable if n.endswith('weight')}
    assert changed <= trainable

    frozen = CondenseNetV2(TINY, frozen_stages=3).train()
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen.blocks[2].norm.training
    free = CondenseNetV2(TINY).train()
    assert all(p.requires_grad for p in free.parameters())
    assert free.blocks[2].norm.training


@pytest.mark.parametrize('order', [('norm', 'act', 'conv'), ('conv', 'norm', 'act')])
def test_with_cp_trains_the_same(order):
    torch.manual_seed(0)
    arch = dict(TINY, sfr_order=order)
    plain = CondenseNetV2(arch, out_indices=(0, 1, 2)).train()
    randomise(plain)
    recomputing = CondenseNetV2(arch, out_indices=(0, 1, 2), with_cp=True).train()
    recomputing.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    for backbone in (plain, recomputing):
        for layer in sparse_layers(backbone).values():
            layer.set_progress(0.5)
        sum(out.square().mean() for out in backbone(x)).backward()
    for (name, p), q in zip(plain.named_parameters(), recomputing.parameters()):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    # The norms' statistics are updated once, though the batch passes twice.
    others = recomputing.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, others[name]), name


def test_with_cp_recomputes_only_the_lgc():
    backbone = CondenseNetV2(TINY, with_cp=True).train()
    layer = getattr(backbone.blocks[2], '1')
    ran = []
    for name in ('lgc', 'conv', 'sfr'):
        conv = getattr(layer, name).conv
        conv.register_forward_hook(lambda *_, name=name: ran.append(name))
    backbone(torch.randn(2, 3, 32, 32))[0].sum().backward()
    assert ran == ['lgc', 'conv', 'sfr', 'lgc']


@pytest.mark.parametrize('listed', [False, True])
def test_pretrained_init_rejects_another_network(tiny, tmp_path, listed):
    path = tmp_path / 'other.pth'
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone')
    weights = {f'backbone.{k}': v for k, v in tiny.state_dict().items()}

    def load(weights):
        torch.save(dict(state_dict=weights), path)
        cfg = [init_cfg] if listed else init_cfg
        CondenseNetV2(TINY, init_cfg=cfg).init_weights()

    load(dict(weights, x=torch.ones(1)))
    with pytest.raises(InputError, match='no weights for .* backbone.stem.conv.weight'):
        load({f'encoder.{k}': v for k, v in weights.items()})
    lacking = {k: v for k, v in weights.items() if k != 'backbone.blocks.2.norm.bias'}
    with pytest.raises(
        InputError, match='no weights for 1 .* backbone.blocks.2.norm.bias'
    ):
        load(lacking)
    with pytest.raises(InputError, match='belongs to another CondenseNetV2'):
        load({**weights, 'backbone.stem.conv.weight': torch.ones(4, 3, 3, 3)})
    torch.save([1], path)
    init_cfg.pop('prefix')
    with pytest.raises(InputError, match='holds no state dict'):
        CondenseNetV2(TINY, init_cfg=init_cfg).init_weights()


def test_blocks_after_the_last_output_are_unused():
    backbone = CondenseNetV2(TINY, out_indices=1).train()
    backbone(torch.randn(2, 3, 16, 16))[0].sum().backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    last = backbone.blocks[2]
    assert not any(p.requires_grad for p in last.parameters())
    assert last.norm.num_batches_tracked == 0


@pytest.mark.parametrize('scope', ['mmdet', 'mmpretrain'])
@pytest.mark.parametrize('prefix', ['', 'mmdet.', 'mmpretrain.'])
def test_resolves_under_both_scopes(scope, prefix):
    init_default_scope(scope)
    backbone = MODELS.build(dict(type=f'{prefix}CondenseNetV2', arch=TINY))
    assert type(backbone) is CondenseNetV2
    registry = dict(mmdet=MMDET_MODELS, mmpretrain=MMPRETRAIN_MODELS)[scope]
    assert registry.get(f'{prefix}LGC') is LGC


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (dict(arch='d'), r"Unknown arch 'd': choose from \['a', 'b', 'c', 'cifar-110'"),
        (dict(arch=dict(depths=(1,))), "missing: .*'growth_rates'"),
        (dict(arch=dict(TINY, dephts=(1,))), r"unknown: \['dephts'\]"),
        (
            dict(arch=dict(TINY, depths=(1, 2))),
            r'one positive integer per block, got \(',
        ),
        (dict(arch=dict(TINY, depths=(0, 1, 2))), r'got \(0, 1, 2\) and \(8, 8, 16\)'),
        (dict(arch=dict(TINY, depths=(1, -1, 2))), 'one positive integer per block'),
        (dict(arch=dict(TINY, depths=(1, 1.0, 2))), 'one positive integer per block'),
        (dict(arch=dict(TINY, depths=3)), 'one positive integer per block, got 3 and'),
        (dict(arch=dict(TINY, depths=(), growth_rates=())), 'one positive integer per'),
        (
            dict(arch=dict(TINY, growth_rates=(8, 0, 16))),
            'one positive integer per block',
        ),
        (
            dict(arch=dict(TINY, growth_rates=(8, 8, 10))),
            'divisible by the number of groups',
        ),
        (dict(arch=dict(TINY, groups=0)), 'groups of an arch must be an integer of at'),
        (dict(arch=dict(TINY, stem_stride=0)), 'stem_stride of an arch must be an'),
        (dict(arch=dict(TINY, se_from=[1])), r'at least 0 or None, got \[1\]'),
        (
            dict(arch=dict(TINY, sfr_groups=0)),
            'sfr_groups of an arch must be an',
        ),
        (dict(arch=dict(TINY, sfr_groups=16)), 'and sfr_groups=16'),
        (dict(arch=None), 'Unknown arch None'),
        (dict(arch=dict(TINY, condense_factor=64)), 'condense_factor must be in'),
        (dict(arch=TINY, out_indices=(3,)), r'out_indices must be in \[-3, 2\]'),
        (dict(arch=TINY, out_indices=()), 'for 3 blocks, got'),
        (dict(arch=TINY, sfr_init=None), 'sfr_init must be one of'),
        (dict(arch=TINY, frozen_stages=4), r'frozen_stages must be in \[-1, 3\]'),
    ],
)
def test_rejects_bad_arguments(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        CondenseNetV2(**arguments)


@torch.no_grad()
@pytest.mark.parametrize(
    ('arch', 'channels', 'layers'),
    [
        ('cifar-110', [112, 304, 688], 36),
        ('cifar-146', [144, 400, 912], 48),
        ('v1-cifar-50', [80, 208, 464], 24),
        ('v1-74-g4', [48, 144, 400, 1040, 2064], 36),
    ],
)
def test_other_archs(arch, channels, layers):
    torch.manual_seed(0)
    backbone = CondenseNetV2(arch, out_indices=range(len(channels))).eval()
    assert backbone.out_channels == channels
    assert backbone.stem.conv.stride == ((1, 1) if 'cifar' in arch else (2, 2))
    assert not any(isinstance(m, torch.nn.Hardswish) for m in backbone.modules())
    sparse = sparse_layers(backbone)
    assert len(sparse) == layers * (1 if 'v1' in arch else 2)
    layer = getattr(backbone.blocks[1], '1')
    torch.nn.init.uniform_(layer.conv.bn.running_mean, -0.5, 0.5)
    x = torch.randn(1, layer.lgc.conv.in_channels, 4, 4)
    new = layer.conv(layer.lgc(x))
    old = x
    if 'v1' not in arch:
        old = x + layer.sfr.bn(layer.sfr.conv(new)).relu()
    torch.testing.assert_close(layer(x), torch.cat([old, new], 1))


def test_v1_condenses_and_runs():
    torch.manual_seed(0)
    backbone = CondenseNetV2(dict(TINY, sparse_factor=None)).eval()
    for layer in sparse_layers(backbone).values():
        layer.set_progress(1)
    x = torch.randn(1, 3, 32, 32)
    expected = backbone(x)
    backbone.switch_to_deploy()
    torch.testing.assert_close(backbone(x), expected)


def test_reactivation_has_its_own_groups():
    def groups(arch):
        layers = sparse_layers(CondenseNetV2(arch)).items()
        lgc = {layer.mask_groups for name, layer in layers if '.lgc.' in name}
        return lgc, {layer.mask_groups for name, layer in layers if '.sfr.' in name}

    assert groups(TINY) == ({4}, {4})
    assert groups(dict(TINY, sfr_groups=2)) == ({4}, {2})
    assert groups(dict(TINY, sfr_groups=8)) == ({4}, {8})


@torch.no_grad()
@pytest.mark.parametrize('order', [('norm', 'act', 'conv'), ('conv', 'norm', 'act')])
@pytest.mark.parametrize('init_cfg', [None, dict(type='Kaiming', layer='Conv2d')])
def test_starts_near_a_network_without_reactivation(order, init_cfg):
    torch.manual_seed(0)
    arch = dict(TINY, sfr_order=order)
    networks = {
        start: CondenseNetV2(arch, init_cfg=init_cfg, sfr_init=start)
        for start in ('identity', 'released')
    }
    plain = CondenseNetV2(dict(arch, sparse_factor=None))
    x = torch.randn(4, 3, 32, 32)
    differences = {}
    for start, network in networks.items():
        network.init_weights()
        plain.load_state_dict(network.state_dict(), strict=False)
        expected = plain.train()(x)[0]
        difference = (network.train()(x)[0] - expected).abs().mean()
        differences[start] = difference / expected.abs().mean()
    # If the norm is last, the reactivation starts small, not at zero.
    assert differences['identity'] < (0.02 if order[0] == 'norm' else 0.06)
    assert differences['released'] > 0.2
