"""SFR-ShuffleNetV2 and ShuffleNetV2+ compared with the plain networks."""

import copy

import pytest
import torch
from conftest import randomise
from mmpretrain.models import ShuffleNetV2
from torch import nn
from torch.nn.functional import relu

from mmcdnv2.backbones import SFRShuffleNetV2, ShuffleNetV2Plus
from mmcdnv2.errors import InputError
from mmcdnv2.layers import SFRModule, sparse_layers


def finish(backbone):
    """Randomise the norms and finish the sparsification."""
    torch.manual_seed(0)
    randomise(backbone)
    for layer in sparse_layers(backbone).values():
        layer.set_progress(1)
    return backbone.eval()


def disable_reactivations(backbone):
    """Make every reactivation add zero."""
    for module in backbone.modules():
        if isinstance(module, SFRModule):
            nn.init.zeros_(module.bn.weight)
            nn.init.zeros_(module.bn.bias)


def build_all():
    return {
        'v2': lambda **kw: SFRShuffleNetV2(0.5, out_indices=(0, 1, 2), **kw),
        'plus': lambda **kw: ShuffleNetV2Plus(
            'small', sparse_factor=8, out_indices=(0, 1, 2, 3), **kw
        ),
    }


@torch.no_grad()
@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('name', ['v2', 'plus'])
def test_torch_fx_traces(name, deploy, with_cp):
    backbone = finish(build_all()[name](deploy=deploy, with_cp=with_cp))
    graph = torch.fx.symbolic_trace(backbone)
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(graph(x), backbone(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('name', ['v2', 'plus'])
def test_equals_the_plain_network_without_reactivations(name):
    x = torch.randn(2, 3, 64, 96)
    ours = finish(build_all()[name]())
    if name == 'v2':
        plain = ShuffleNetV2(0.5, out_indices=(0, 1, 2))
        plain.eval()
    else:
        plain = ShuffleNetV2Plus('small', out_indices=(0, 1, 2, 3)).eval()
    loaded = plain.load_state_dict(ours.state_dict(), strict=False)
    assert all('sfr' in key for key in loaded.unexpected_keys)
    expected = plain(x)
    assert not torch.allclose(ours(x)[-1], expected[-1], atol=1e-3)
    disable_reactivations(ours)
    for out, other in zip(ours(x), expected):
        torch.testing.assert_close(out, other)


@torch.no_grad()
@pytest.mark.parametrize('name', ['v2', 'plus'])
def test_switch_to_deploy(name):
    x = torch.randn(1, 3, 64, 32)
    backbone = finish(build_all()[name]())
    weights = copy.deepcopy(backbone.state_dict())
    expected = backbone(x)
    assert not backbone.deploy
    backbone.switch_to_deploy()
    fresh = build_all()[name](deploy=True).eval()
    fresh.load_state_dict(weights)
    for network in (backbone, fresh):
        assert network.deploy
        for out, other in zip(network(x), expected):
            torch.testing.assert_close(out, other, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_unit_matches_its_formula():
    unit = finish(build_all()['v2']()).layers[0][1]
    x = torch.randn(1, 48, 6, 6)
    old, new = x[:, :24], unit.branch2(x[:, 24:])
    old = old + relu(unit.sfr.bn(unit.sfr.conv(new)))
    out = torch.empty_like(x)
    out[:, 0::2], out[:, 1::2] = old, new
    torch.testing.assert_close(unit(x), out)


@torch.no_grad()
def test_plus_unit_matches_its_formula():
    backbone = finish(build_all()['plus']())
    unit = backbone.blocks[2][1]
    x = torch.randn(1, 208, 6, 6)
    new = nn.Sequential(*unit.branch[:-1])(x[:, 1::2])
    se = unit.branch[-1]
    squeezed = relu(se.conv1.bn(se.conv1.conv(new.mean((2, 3), keepdim=True))))
    new = new * ((se.conv2.conv(squeezed) + 3) / 6).clamp(0, 1)
    old = x[:, ::2] + nn.functional.hardswish(unit.sfr.bn(unit.sfr.conv(new)))
    torch.testing.assert_close(unit(x), torch.cat([old, new], 1))
    # Squeeze-and-excite from the third stage on, ReLU in the first.
    assert isinstance(backbone.blocks[1][1].branch[-1].activate, nn.Hardswish)
    assert isinstance(backbone.blocks[0][1].branch[-1].activate, nn.ReLU)
    kernels = [
        module.kernel_size[0]
        for module in backbone.blocks[3].modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
    ]
    assert kernels == [7, 7, 5, 3, 3, 3, 7]


@pytest.mark.parametrize('name', ['v2', 'plus'])
def test_with_cp_trains_the_same(name):
    plain = finish(build_all()[name]()).train()
    recomputing = build_all()[name](with_cp=True).train()
    recomputing.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for backbone in (plain, recomputing):
        sum(out.square().mean() for out in backbone(x)).backward()
    for p, q in zip(plain.parameters(), recomputing.parameters()):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-4, rtol=1e-4)
    # The norms' statistics are updated once, though the batch passes twice.
    others = dict(recomputing.named_buffers())
    for buffer_name, value in plain.named_buffers():
        torch.testing.assert_close(value, others[buffer_name], msg=buffer_name)


def test_unused_stages_are_not_built_or_trained():
    for backbone in (
        SFRShuffleNetV2(0.5, out_indices=(0, 1)),
        ShuffleNetV2Plus('small', out_indices=(0, 1)),
    ):
        sum(out.sum() for out in backbone.train()(torch.randn(2, 3, 64, 64))).backward()
        for name, parameter in backbone.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
    assert len(SFRShuffleNetV2(0.5, out_indices=(0, 1)).layers) == 2


@pytest.mark.parametrize('name', ['v2', 'plus'])
def test_frozen_stages_and_norm_eval(name):
    backbone = build_all()[name](frozen_stages=1, norm_eval=True)
    # In the constructor, before DDP is set up, not only in train().
    idle = {n for n, p in backbone.named_parameters() if not p.requires_grad}
    stem, blocks = ('conv1', 'layers') if name == 'v2' else ('stem', 'blocks')
    frozen = (f'{stem}.', f'{blocks}.0.')
    # The last convolution of ShuffleNetV2+ is not run.
    expected = (*frozen, 'blocks.4.')
    assert idle == {n for n, _ in backbone.named_parameters() if n.startswith(expected)}
    backbone.train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)
    backbone = build_all()[name](frozen_stages=1).train()
    for norm_name, module in backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training != norm_name.startswith(frozen), norm_name


@pytest.mark.parametrize('name', ['v2', 'plus'])
def test_rejects_bad_indices(name):
    cls = SFRShuffleNetV2 if name == 'v2' else ShuffleNetV2Plus
    last = 3 if name == 'v2' else 4
    with pytest.raises(
        InputError, match=rf'out_indices must be in \[-{last + 1}, {last}'
    ):
        cls(out_indices=(last + 1,))
    with pytest.raises(InputError, match=rf'frozen_stages must be in \[-1, {last + 1}'):
        cls(out_indices=-1, frozen_stages=last + 2)
    assert cls(out_indices=-1).out_indices == (last,)


def test_groups_are_reduced_and_counts_rounded_up():
    backbone = SFRShuffleNetV2(1.0)
    groups = [layer.mask_groups for layer in sparse_layers(backbone).values()]
    kept = [layer.final_kept for layer in sparse_layers(backbone).values()]
    assert groups == [2] * 3 + [4] * 7 + [8] * 3
    assert kept == [8] * 3 + [15] * 7 + [29] * 3


def test_rejects_unknown_arch():
    with pytest.raises(InputError, match="Unknown arch 'tiny': choose from"):
        ShuffleNetV2Plus('tiny')


@pytest.mark.parametrize('listed', [False, True])
def test_pretrained_init(tmp_path, listed):
    trained = SFRShuffleNetV2(0.5)
    path = str(tmp_path / 'parallel.pth')
    torch.save({f'module.{k}': v for k, v in trained.state_dict().items()}, path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    backbone = SFRShuffleNetV2(0.5, init_cfg=[init_cfg] if listed else init_cfg)
    # With a list, mmpretrain's ShuffleNetV2 draws random weights after loading.
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name


@pytest.mark.parametrize('name', ['v2', 'plus'])
def test_initial_reactivations(name):
    for start, expected in (('identity', 0.01), ('released', 1)):
        backbone = build_all()[name](sfr_init=start)
        # mmpretrain's ShuffleNetV2 sets all norms to one here.
        backbone.init_weights()
        norms = [m.norm for m in backbone.modules() if isinstance(m, SFRModule)]
        assert norms
        for norm in norms:
            assert (norm.weight == expected).all()
    with pytest.raises(InputError, match='sfr_init must be one of'):
        build_all()[name](sfr_init='random')
