"""Condensed layers as the authors' release lays them out, for comparison.

Written from what their converted checkpoints hold and what these compute; none
of it can be built from a config.
"""

import copy

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from ..layers import CondensedConv2d, CondensedLGC, CondensedSFR, channel_shuffle


class GatherFirstLGC(nn.Module):
    """Norm, activation and condensed LGC, the inputs gathered before all.

    The norm and the activation work on a copy of the features, in which those
    that several groups read stand several times.

    Args:
        module (ConvModule): Norm, activation and :class:`CondensedLGC`, in
            this order.
    """

    def __init__(self, module: ConvModule) -> None:
        super().__init__()
        conv = module.conv
        self.register_buffer('index', conv.index)
        self.norm = nn.BatchNorm2d(len(conv.index), module.norm.eps)
        self.norm.load_state_dict(
            {
                # The number of batches seen has no channels.
                name: value[conv.index] if value.dim() else value
                for name, value in module.norm.state_dict().items()
            }
        )
        self.activate = module.activate
        self.conv = _plain_conv(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        x = self.activate(self.norm(x.index_select(1, self.index)))
        return channel_shuffle(self.conv(x), self.conv.groups)


class MatrixSFR(nn.Module):
    """Condensed SFR that puts its updates in their places by a matrix product.

    Args:
        conv (CondensedSFR): The layer to rewrite.
    """

    def __init__(self, conv: CondensedSFR) -> None:
        super().__init__()
        self.conv = _plain_conv(conv)
        # Ones where an output takes an update, shape (columns, groups * kept).
        places = nn.functional.one_hot(conv.index, conv.columns).t()
        self.register_buffer('places', places.to(conv.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        x = channel_shuffle(x, self.conv.weight.size(1))
        updates = self.conv(x)
        out = torch.matmul(self.places, updates.flatten(2))
        return out.unflatten(2, updates.shape[2:])


def with_authors_structure(model: nn.Module) -> nn.Module:
    """Copy a condensed CondenseNetV2 and rewrite its layers the authors' way.

    Args:
        model (nn.Module): Condensed, in evaluation mode. Its LGCs and SFRs have
            no bias, as all of CondenseNetV2's.

    Returns:
        nn.Module: A network that gives the same output.
    """
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        conv = getattr(module, 'conv', None)
        if isinstance(conv, CondensedSFR):
            module.conv = MatrixSFR(conv)
        elif isinstance(conv, CondensedLGC):
            parent, _, attribute = name.rpartition('.')
            setattr(model.get_submodule(parent), attribute, GatherFirstLGC(module))
    return model.eval()


def _plain_conv(conv: CondensedConv2d) -> nn.Conv2d:
    """Return the group convolution of a condensed layer alone."""
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, 1, groups=conv.groups, bias=False
    )
    plain.weight = conv.weight
    return plain
