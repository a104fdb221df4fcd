"""What the mixin does about pretrained weights, beside the backbones' own tests."""

import copy

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader

from mmcdnv2 import CondensableMixin
from mmcdnv2.backbones import CondenseNetV2, SFRShuffleNetV2
from mmcdnv2.errors import InputError
from mmcdnv2.layers import SFRModule


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return SFRShuffleNetV2(0.5).state_dict()


@pytest.fixture
def make_init_cfg(tmp_path):
    """Save weights under names with a prefix; return the init_cfg for them."""

    def make(weights, prefix, name='pretrained.pth'):
        path = str(tmp_path / name)
        torch.save({f'{prefix}{key}': value for key, value in weights.items()}, path)
        init_cfg = dict(type='Pretrained', checkpoint=path)
        return init_cfg if prefix == 'module.' else dict(init_cfg, prefix=prefix)

    return make


@pytest.fixture
def reads(monkeypatch):
    """Names of the checkpoints that MMEngine reads."""
    names = []
    read = CheckpointLoader.load_checkpoint

    def load_checkpoint(filename, *args, **kwargs):
        names.append(filename)
        return read(filename, *args, **kwargs)

    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', load_checkpoint)
    return names


@pytest.fixture
def init_info(monkeypatch):
    """What MMEngine logs of how each parameter was initialised."""
    infos = []

    def dump(module):
        named = module.named_parameters()
        infos.append({n: module._params_init_info[p]['init_info'] for n, p in named})

    monkeypatch.setattr(BaseModule, '_dump_init_info', dump)
    return infos


@pytest.mark.parametrize('prefix', ['module.', 'backbone.'])
@pytest.mark.parametrize('listed', [False, True])
def test_each_checkpoint_is_read_once(weights, make_init_cfg, reads, prefix, listed):
    last = dict(list(weights.items())[-1:])
    init_cfg = make_init_cfg(weights, prefix)
    if listed:
        other = make_init_cfg({n: v + 1 for n, v in last.items()}, prefix, 'other.pth')
        init_cfg = [init_cfg, dict(type='Constant', layer='Conv2d', val=1), other]
    backbone = SFRShuffleNetV2(0.5, init_cfg=init_cfg)
    backbone.init_weights()
    cfgs = [init_cfg[0], init_cfg[2]] if listed else [init_cfg]
    assert reads == [cfg['checkpoint'] for cfg in cfgs]
    for name, value in backbone.state_dict().items():
        expected = weights[name] + 1 if listed and name in last else weights[name]
        assert torch.equal(value, expected), name


def test_a_prefix_inside_that_of_data_parallel(weights, make_init_cfg):
    init_cfg = make_init_cfg(weights, 'module.backbone.')
    backbone = SFRShuffleNetV2(0.5, init_cfg=dict(init_cfg, prefix='backbone.'))
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize('listed', [False, True])
def test_mmengine_initialises_as_without_the_mixin(
    weights, make_init_cfg, init_info, listed
):
    init_cfg = make_init_cfg(weights, 'module.')
    init_cfg = [init_cfg, dict(type='Normal', layer='Conv2d')] if listed else init_cfg
    random_states = []
    for plain in (True, False):
        torch.manual_seed(0)
        backbone = SFRShuffleNetV2(0.5, init_cfg=copy.deepcopy(init_cfg))
        if plain:
            super(CondensableMixin, backbone).init_weights()
        else:
            backbone.init_weights()
        random_states.append(torch.get_rng_state())
        assert backbone.init_cfg == init_cfg
        assert backbone.is_init
        assert not backbone._load_state_dict_pre_hooks
    assert torch.equal(*random_states)
    assert init_info[0] == init_info[1]
    assert 'PretrainedInit: load from' in init_info[1]['conv1.conv.weight']


@pytest.mark.parametrize('listed', [False, True])
def test_a_second_call_loads_again(weights, make_init_cfg, listed):
    init_cfg = make_init_cfg(weights, 'module.')
    backbone = SFRShuffleNetV2(0.5, init_cfg=[init_cfg] if listed else init_cfg)
    for _ in range(2):
        backbone.init_weights()
        for name, value in backbone.state_dict().items():
            assert torch.equal(value, weights[name]), name
        torch.nn.init.zeros_(backbone.conv1.conv.weight)


@pytest.mark.parametrize('redraws', [False, True])
def test_a_second_call_keeps_what_the_network_keeps(redraws):
    arch = dict(
        depths=(1, 1, 1),
        growth_rates=(8, 8, 16),
        groups=4,
        condense_factor=4,
        sparse_factor=4,
    )
    # ShuffleNet draws new weights in each call, CondenseNetV2 in the first alone.
    network = SFRShuffleNetV2(0.5) if redraws else CondenseNetV2(arch)
    network.init_weights()
    sfrs = [m for m in network.modules() if isinstance(m, SFRModule)]
    learned = [torch.rand_like(sfr.norm.weight) for sfr in sfrs]
    for sfr, weight in zip(sfrs, learned):
        sfr.norm.weight.data.copy_(weight)
    network.init_weights()
    for sfr, weight in zip(sfrs, learned):
        start = torch.full_like(weight, 0.1 if sfr.order[0] == 'norm' else 0.01)
        assert torch.equal(sfr.norm.weight, start if redraws else weight)


def test_an_absent_prefix_is_not_passed_over(weights, make_init_cfg):
    complete = make_init_cfg(weights, 'backbone.')
    absent = dict(complete, prefix='encoder')
    with pytest.raises(InputError, match='no weights for .* encoder.conv1.conv.weight'):
        SFRShuffleNetV2(0.5, init_cfg=absent).init_weights()
    # Here nothing is missing, but a checkpoint is not what it was taken for.
    with pytest.raises(AssertionError, match='encoder'):
        SFRShuffleNetV2(0.5, init_cfg=[complete, absent]).init_weights()
