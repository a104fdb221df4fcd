"""CondenseNetV2 as in the authors' release, for comparison.

The training form follows the computation of the release, the condensed form the
content of its converted checkpoints. Neither can be built from a config.
"""

import copy
from typing import Callable, Optional

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmcdnv2.layers import (
    CondensedConv2d,
    CondensedLGC,
    CondensedSFR,
    SparseConv2d,
    channel_shuffle,
)


def trained_as_the_authors(model: nn.Module) -> nn.Module:
    """Copy a CondenseNetV2 and convert it to the training form of the release.

    The release has a float mask for each weight of a sparse layer and computes
    hard-swish in several operations. Otherwise it trains like ours without
    ``with_cp``.

    Args:
        model (nn.Module): Neither condensed nor pruned.

    Returns:
        nn.Module: A network with the same output.
    """

    def rewrite(module: nn.Module) -> Optional[nn.Module]:
        if isinstance(module, SparseConv2d):
            return FloatMaskConv2d(module)
        return ComposedHardswish() if isinstance(module, nn.Hardswish) else None

    return _rewritten(model, rewrite)


def condensed_as_the_authors(model: nn.Module) -> nn.Module:
    """Copy a condensed CondenseNetV2 and convert it to the authors' condensed form.

    That form gathers an LGC's inputs before norm and activation, and scatters an
    SFR's updates with a matrix product.

    Args:
        model (nn.Module): Condensed, LGCs and SFRs without bias, as in
            CondenseNetV2.

    Returns:
        nn.Module: A network with the same output, in evaluation mode.
    """

    def rewrite(module: nn.Module) -> Optional[nn.Module]:
        if isinstance(module, CondensedSFR):
            return MatrixSFR(module)
        if isinstance(getattr(module, 'conv', None), CondensedLGC):
            return GatherFirstLGC(module)
        return None

    return _rewritten(model, rewrite).eval()


def _rewritten(
    model: nn.Module, rewrite: Callable[[nn.Module], Optional[nn.Module]]
) -> nn.Module:
    """Copy a model and replace the modules for which ``rewrite`` returns one."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            rewritten = rewrite(child)
            if rewritten is not None:
                setattr(module, name, rewritten)
    return model


class FloatMaskConv2d(nn.Module):
    """Sparse layer with a float mask of its weight's shape.

    Args:
        layer (SparseConv2d): The layer to rewrite, without bias.
    """

    def __init__(self, layer: SparseConv2d) -> None:
        super().__init__()
        self.weight = layer.weight
        self.register_buffer('mask', torch.ones_like(layer.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return nn.functional.conv2d(x, self.weight * self.mask)


class ComposedHardswish(nn.Module):
    """Hard-swish composed of a sum, a ReLU6, a product and a quotient."""

    def forward(self, x: Tensor) -> Tensor:
        """Activate a tensor of any shape."""
        return x * nn.functional.relu6(x + 3, inplace=True) / 6


class GatherFirstLGC(nn.Module):
    """Gather the inputs, then norm, activation and group convolution.

    Norm and activation work on a copy of the features, with duplicates of those
    that several groups read.

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
                # num_batches_tracked is a scalar.
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
    """Condensed SFR that scatters its updates with a matrix product.

    Args:
        conv (CondensedSFR): The layer to rewrite.
    """

    def __init__(self, conv: CondensedSFR) -> None:
        super().__init__()
        self.conv = _plain_conv(conv)
        # Ones where an output gets an update, shape (columns, groups * kept).
        places = nn.functional.one_hot(conv.index, conv.columns).t()
        self.register_buffer('places', places.to(conv.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        x = channel_shuffle(x, self.conv.weight.size(1))
        updates = self.conv(x)
        out = torch.matmul(self.places, updates.flatten(2))
        return out.unflatten(2, updates.shape[2:])


def _plain_conv(conv: CondensedConv2d) -> nn.Conv2d:
    """Return only the group convolution of a condensed layer."""
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, 1, groups=conv.groups, bias=False
    )
    plain.weight = conv.weight
    return plain
