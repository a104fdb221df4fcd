"""Weights laid out channels last, values untouched."""

import torch
from torch import nn
from toy import ToyModel, make_runner


class ConvModel(ToyModel):
    def __init__(self):
        super().__init__()
        self.sfr = nn.Conv2d(8, 8, 3, padding=1)


def test_layout_changes_and_nothing_else(tmp_path):
    layout = dict(memory_format=torch.channels_last)
    trained = []
    for name, hooks in dict(plain=[], last=[dict(type='ChannelsLastHook')]).items():
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        model = ConvModel()
        make_runner(tmp_path / name, hooks=hooks, model=model).train()
        assert model.sfr.weight.is_contiguous(**layout) == (name == 'last')
        trained.append(model.state_dict())
    for key, value in trained[0].items():
        torch.testing.assert_close(trained[1][key], value, atol=1e-5, rtol=1e-4)
