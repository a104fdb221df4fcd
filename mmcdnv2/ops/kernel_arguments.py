"""Collect a native kernel's arguments from PyTorch modules."""

from typing import Container, Dict, List, Sequence, Tuple, Type, Union

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

_ACTIVATIONS = {nn.ReLU: 1, nn.Hardswish: 2}
# In evaluation mode, SyncBatchNorm is an ordinary batch norm.
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
NORM_FIRST = ('norm', 'act', 'conv')
CONV_FIRST = ('conv', 'norm', 'act')

# The forwards that the kernels replace, as they were when this package was imported.
_forwards: Dict[Type[nn.Module], object] = {}


def replaces_forward(*types: Type[nn.Module]) -> None:
    """Record the forwards of classes that the kernels implement.

    Args:
        types (type): Module classes that a kernel may replace.
    """
    _forwards.update((kind, kind.forward) for kind in types)


replaces_forward(
    *_ACTIVATIONS, *_NORMS, nn.Conv2d, nn.AvgPool2d, nn.Identity, nn.Sigmoid, ConvModule
)


class UnsupportedError(Exception):
    """Raised if the kernels do not support a module; the message has the reason."""


class KernelArguments:
    """The arguments of a kernel, except its input.

    The ``add`` methods must be called in the order of the table in
    csrc/core/argument_reader.hpp.

    Attributes:
        spec (list[int]): Types and settings of the modules.
        norms (list[nn.Module]): Batch norms.
        sources (list[tuple]): Modules and names of parameters and buffers.
        options (tuple): Named arguments of the operator's schema, in its order
            (ints and lists of ints); they determine the output's shape.
    """

    def __init__(self) -> None:
        self.spec: List[int] = []
        self.norms: List[nn.Module] = []
        self.sources: List[Tuple[nn.Module, str]] = []
        self.options: Tuple[Union[int, List[int]], ...] = ()

    def tensors(self) -> List[Tensor]:
        """Return the current parameters and buffers."""
        return [getattr(module, name) for module, name in self.sources]

    def add_act(self, act: nn.Module) -> None:
        """Add an activation.

        Args:
            act (nn.Module): ReLU or hard-swish.

        Raises:
            UnsupportedError: If it is another activation.
        """
        _check(act, _ACTIVATIONS, f'its activation is {type(act).__name__}')
        self.spec.append(_ACTIVATIONS[type(act)])

    def add_norm(self, norm: nn.Module) -> None:
        """Add a batch norm's parameters and statistics.

        Args:
            norm (nn.Module): The norm.

        Raises:
            UnsupportedError: If it is another norm or lacks one of them.
        """
        _check(norm, _NORMS, f'its norm is {type(norm).__name__}')
        if not norm.affine or not norm.track_running_stats:
            raise UnsupportedError('its norm lacks parameters or running statistics')
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            self._add_tensor(norm, name)
        self.norms.append(norm)

    def add_conv(self, conv: nn.Conv2d, kernel_size: int, stride: int = 1) -> None:
        """Add a convolution's weight and, if it is condensed, its index.

        Args:
            conv (nn.Conv2d): The convolution, of a checked type.
            kernel_size (int): Expected kernel size, with "same" padding.
            stride (int): Expected stride. Defaults to 1.

        Raises:
            UnsupportedError: If it differs in size, stride, padding or bias.
        """
        sizes = (kernel_size, stride, kernel_size // 2, 1)
        expected = (*((size, size) for size in sizes), 'zeros', None)
        actual = (
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.padding_mode,
            conv.bias,
        )
        if actual != expected:
            raise UnsupportedError(
                'a convolution has an unsupported stride, padding or bias'
            )
        self._add_tensor(conv, 'weight')
        if 'index' in conv._buffers:
            self._add_tensor(conv, 'index')

    def _add_tensor(self, module: nn.Module, name: str) -> None:
        tensor = module._parameters.get(name, module._buffers.get(name))
        if tensor is None:
            raise UnsupportedError(f'{type(module).__name__} computes its {name}')
        floating = tensor.is_floating_point() and tensor.dtype != torch.float32
        if tensor.device.type != 'cpu' or floating:
            raise UnsupportedError(f'it is {tensor.dtype} on {tensor.device}')
        self.sources.append((module, name))


def check_type(module: nn.Module, expected: type) -> None:
    """Check that a module computes what the kernel computes.

    Args:
        module (nn.Module): The module.
        expected (type): The class that the kernel implements; subclasses may
            compute something else.

    Raises:
        UnsupportedError: If it has another class, or its forward was replaced.
    """
    _check(module, [expected], f'{type(module).__name__} is not {expected.__name__}')


def _check(module: nn.Module, expected: Container[type], reason: str) -> None:
    kind = type(module)
    if kind not in expected:
        raise UnsupportedError(reason)
    # Read from the module, so that torch.compile adds a guard.
    own = 'forward' in module.__dict__
    if own or module.forward.__func__ is not _forwards[kind]:
        raise UnsupportedError(f'the forward of a {kind.__name__} was replaced')


def check_conv_module(
    module: ConvModule, kind: type, *orders: Sequence[str], needs_act: bool = True
) -> nn.Conv2d:
    """Check that a ConvModule has a convolution, a norm and an activation.

    Args:
        module (ConvModule): The module, of a checked type.
        kind (type): Expected class of its convolution.
        orders (Sequence[str]): The orders that the kernel supports.
        needs_act (bool): Whether the kernel requires an activation. Defaults to
            True.

    Returns:
        nn.Conv2d: Its convolution.

    Raises:
        UnsupportedError: If a part is missing, or a part or the order is
            unsupported.
    """
    check_type(module.conv, kind)
    complete = module.with_norm and (module.with_activation or not needs_act)
    if module.order not in orders or not complete:
        raise UnsupportedError(f'its order is {module.order}')
    return module.conv
