"""The arguments of a native kernel, collected from PyTorch modules."""

from typing import Container, Dict, List, Sequence, Tuple, Type, Union

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

_ACTIVATIONS = {nn.ReLU: 1, nn.Hardswish: 2}
# In evaluation SyncBatchNorm is a batch norm like any other.
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
NORM_FIRST = ('norm', 'act', 'conv')
CONV_FIRST = ('conv', 'norm', 'act')

# The code that the kernels replace, as it was when this package was imported.
_forwards: Dict[Type[nn.Module], object] = {}


def replaces_forward(*types: Type[nn.Module]) -> None:
    """Remember the forwards that the kernels do the work of.

    Args:
        types (type): Module classes that a kernel may take.
    """
    _forwards.update((kind, kind.forward) for kind in types)


replaces_forward(
    *_ACTIVATIONS, *_NORMS, nn.Conv2d, nn.AvgPool2d, nn.Identity, nn.Sigmoid, ConvModule
)


class UnsupportedError(Exception):
    """The kernels do not take this module; the message says why."""


class KernelArguments:
    """The arguments of a kernel besides its input.

    The ``add`` methods are called in the order in which the kernel reads. The
    table in csrc/core/argument_reader.hpp states it.

    Attributes:
        spec (list[int]): What the modules are.
        norms (list[nn.Module]): Batch norms.
        sources (list[tuple]): Parameters and buffers, each by its module and
            its name there.
        options (tuple): What has a name of its own in the operator's schema, in
            that order, numbers and lists of them: it tells the shape of the output.
    """

    def __init__(self) -> None:
        self.spec: List[int] = []
        self.norms: List[nn.Module] = []
        self.sources: List[Tuple[nn.Module, str]] = []
        self.options: Tuple[Union[int, List[int]], ...] = ()

    def tensors(self) -> List[Tensor]:
        """Collect the parameters and buffers as they are now."""
        return [getattr(module, name) for module, name in self.sources]

    def add_act(self, act: nn.Module) -> None:
        """Add the number of an activation.

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
            UnsupportedError: If it is another norm or lacks one of the four.
        """
        _check(norm, _NORMS, f'its norm is {type(norm).__name__}')
        if not norm.affine or not norm.track_running_stats:
            raise UnsupportedError('its norm lacks parameters or running statistics')
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            self._add_tensor(norm, name)
        self.norms.append(norm)

    def add_conv(self, conv: nn.Conv2d, kernel_size: int, stride: int = 1) -> None:
        """Add a convolution's weight and, if it is a condensed one, its index.

        Args:
            conv (nn.Conv2d): The convolution, its type checked already.
            kernel_size (int): Expected size; the padding must keep the map's.
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
            raise UnsupportedError('a convolution has another stride, padding or bias')
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
    """Refuse a module whose code may be another than the kernel's.

    Args:
        module (nn.Module): The module.
        expected (type): The class that the kernel knows; a subclass may do
            something else.

    Raises:
        UnsupportedError: If it is of another class, or its forward was
            replaced.
    """
    _check(module, [expected], f'{type(module).__name__} is not {expected.__name__}')


def _check(module: nn.Module, expected: Container[type], reason: str) -> None:
    kind = type(module)
    if kind not in expected:
        raise UnsupportedError(reason)
    # Read where the call would: torch.compile then looks out for changes.
    own = 'forward' in module.__dict__
    if own or module.forward.__func__ is not _forwards[kind]:
        raise UnsupportedError(f'the forward of a {kind.__name__} was replaced')


def check_conv_module(
    module: ConvModule, kind: type, *orders: Sequence[str], needs_act: bool = True
) -> nn.Conv2d:
    """Refuse a ConvModule unless it is convolution, norm and activation.

    Args:
        module (ConvModule): The module, its own type checked already.
        kind (type): The expected class of its convolution.
        orders (Sequence[str]): The orders that the kernel knows.
        needs_act (bool): Whether the kernel takes it only with an activation.
            Defaults to True.

    Returns:
        nn.Conv2d: Its convolution.

    Raises:
        UnsupportedError: If a part is missing or another, or the order is.
    """
    check_type(module.conv, kind)
    complete = module.with_norm and (module.with_activation or not needs_act)
    if module.order not in orders or not complete:
        raise UnsupportedError(f'its order is {module.order}')
    return module.conv
