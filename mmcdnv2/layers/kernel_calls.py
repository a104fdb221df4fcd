"""From PyTorch modules to calls of the native kernels."""

import operator
from functools import partial
from itertools import count
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmcv.cnn import ConvModule
from mmpretrain.models.utils import SELayer
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from ..ops import library
from .condensed_conv import CondensedConv2d, CondensedLGC, CondensedSFR

_BatchNorm = nn.modules.batchnorm._BatchNorm
_is_training = operator.attrgetter('training')
_eps = operator.attrgetter('eps')
_is_functorch = torch._C._functorch.is_functorch_wrapped_tensor
_generations = count(1)
_NORM_FIRST = ('norm', 'act', 'conv')
_CONV_FIRST = ('conv', 'norm', 'act')

# torch 2.1 cannot tell that it compiles: there the kernels break the graph.
is_compiling = getattr(torch.compiler, 'is_compiling', bool)
try:
    torch.is_autocast_enabled('cpu')
    _is_autocast_enabled = partial(torch.is_autocast_enabled, 'cpu')
except TypeError:  # torch 2.1
    _is_autocast_enabled = torch.is_autocast_cpu_enabled

# Parameters, spec and epsilons.
KernelArgs = Tuple[List[Tensor], List[int], List[float]]


class UnsupportedError(Exception):
    """The kernels do not take this module; the message says why."""


class Call:
    """What a kernel is called with beside its input.

    Attributes:
        spec (list[int]): What the modules are, in the kernel's order.
        norms (list[nn.Module]): Batch norms, in the kernel's order.
        sources (list[tuple]): Parameters and buffers, each by its module and
            its name there.
    """

    def __init__(self) -> None:
        self.spec: List[int] = []
        self.norms: List[nn.Module] = []
        self.sources: List[Tuple[nn.Module, str]] = []

    def tensors(self) -> List[Tensor]:
        """Collect the parameters and buffers as they are now."""
        return [getattr(module, name) for module, name in self.sources]

    def add_act(self, act: nn.Module) -> None:
        """Take an activation's number into the spec."""
        self.spec.append(_act_number(act))

    def add_norm(self, norm: nn.Module) -> None:
        """Take a batch norm's parameters and statistics."""
        if not isinstance(norm, _BatchNorm):
            raise UnsupportedError(f'its norm is {type(norm).__name__}')
        if not norm.affine or not norm.track_running_stats:
            raise UnsupportedError('its norm lacks parameters or running statistics')
        for name in ('weight', 'bias', 'running_mean', 'running_var'):
            self.sources.append((norm, name))
        self.norms.append(norm)

    def add_conv(self, conv: nn.Conv2d, kernel_size: int, stride: int = 1) -> None:
        """Take a convolution's weight and, if it has one, its index."""
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
        self.sources.append((conv, 'weight'))
        if isinstance(conv, CondensedConv2d):
            self.sources.append((conv, 'index'))

    def add_reactivation(self, sfr: ConvModule) -> None:
        """Take a reactivation with its norm and activation."""
        _check_type(sfr.conv, CondensedSFR)
        _check_order(sfr, _NORM_FIRST, _CONV_FIRST)
        self.spec += [sfr.conv.groups, int(sfr.order == _NORM_FIRST)]
        self.add_act(sfr.activate)
        self.add_norm(sfr.norm)
        self.add_conv(sfr.conv, 1)

    def add_layer(self, layer: nn.Module) -> None:
        """Take a dense layer."""
        if not hasattr(layer, 'lgc'):
            raise UnsupportedError(f'{type(layer).__name__} is not a dense layer')
        lgc, conv = layer.lgc, layer.conv
        _check_type(lgc.conv, CondensedLGC)
        _check_type(conv.conv, nn.Conv2d)
        _check_order(lgc, _NORM_FIRST)
        _check_order(conv, _NORM_FIRST)
        if lgc.conv.groups != conv.conv.groups:
            raise UnsupportedError('its two convolutions differ in groups')
        self.spec.append(lgc.conv.groups)
        self.add_act(lgc.activate)
        self.add_act(conv.activate)
        has_se = not isinstance(layer.se, nn.Identity)
        self.spec.append(int(has_se))
        self.add_norm(lgc.norm)
        self.add_conv(lgc.conv, 1)
        self.add_norm(conv.norm)
        self.add_conv(conv.conv, 3)
        if has_se:
            self.add_se(layer.se)
        if layer.sfr is None:
            self.spec += [0, 0, 0]
        else:
            self.add_reactivation(layer.sfr)

    def add_se(self, se: nn.Module) -> None:
        """Take a squeeze-and-excite with ReLU and sigmoid."""
        _check_type(se, SELayer)
        plain = not (se.conv1.with_norm or se.conv2.with_norm or se.return_weight)
        if not plain or _act_number(se.conv1.activate) != 1:
            raise UnsupportedError(
                'its squeeze-and-excite is another than ReLU, sigmoid'
            )
        _check_type(se.conv2.activate, nn.Sigmoid)
        self.add_conv(se.conv1.conv, 1)
        self.add_conv(se.conv2.conv, 1)


def _act_number(act: nn.Module) -> int:
    for number, kind in ((1, nn.ReLU), (2, nn.Hardswish)):
        if type(act) is kind:
            return number
    raise UnsupportedError(f'its activation is {type(act).__name__}')


def _check_type(module: nn.Module, expected: type) -> None:
    if type(module) is not expected:
        raise UnsupportedError(f'{type(module).__name__} is not {expected.__name__}')


def _check_order(module: ConvModule, *orders: Sequence[str]) -> None:
    complete = module.with_norm and module.with_activation
    if module.order not in orders or not complete:
        raise UnsupportedError(f'its order is {module.order}')


def block_call(block: nn.Module) -> Call:
    """Describe a dense block to the kernel ``mmcdnv2::dense_block``.

    Args:
        block (nn.Module): Children in the order in which they run: 'pool',
            then the dense layers, then 'norm' and 'act', the ones in quotes
            if they are there.

    Returns:
        Call: What the kernel needs.

    Raises:
        UnsupportedError: If the kernel does not take it.
    """
    call = Call()
    children = dict(block.named_children())
    pool = children.pop('pool', None)
    norm, act = children.pop('norm', None), children.pop('act', None)
    if pool is not None and _pool_of(pool) != ((2, 2), (2, 2), (0, 0), False):
        raise UnsupportedError('its pooling is not over 2x2 pixels')
    if norm is not None and _act_number(act) != 1:
        raise UnsupportedError('its last activation is not ReLU')
    call.spec += [int(pool is not None), int(norm is not None)]
    for layer in children.values():
        call.add_layer(layer)
    if norm is not None:
        call.add_norm(norm)
    return call


def _pool_of(pool: nn.AvgPool2d) -> tuple:
    pair = nn.modules.utils._pair
    sizes = (pair(pool.kernel_size), pair(pool.stride), pair(pool.padding))
    return (*sizes, pool.ceil_mode)


def reactivation_call(sfr: ConvModule) -> Call:
    """Describe a reactivation to the kernel ``mmcdnv2::reactivate``.

    Args:
        sfr (ConvModule): A reactivation with its norm and activation.

    Returns:
        Call: What the kernel needs.

    Raises:
        UnsupportedError: If the kernel does not take it.
    """
    call = Call()
    call.add_reactivation(sfr)
    return call


def stem_call(stem: ConvModule) -> Call:
    """Describe a stem to the kernel ``mmcdnv2::stem``.

    Args:
        stem (ConvModule): A 3x3 convolution of stride 2, with or without a norm.

    Returns:
        Call: What the kernel needs.

    Raises:
        UnsupportedError: If the kernel does not take it.
    """
    call = Call()
    _check_type(stem.conv, nn.Conv2d)
    if stem.with_activation or stem.order != _CONV_FIRST or stem.conv.groups != 1:
        raise UnsupportedError('it is more than a convolution and a norm')
    call.spec.append(int(stem.with_norm))
    call.add_conv(stem.conv, 3, stride=2)
    if stem.with_norm:
        call.add_norm(stem.norm)
    return call


def pool_call(se: nn.Module) -> Call:
    """Describe global average pooling with squeeze-and-excite.

    Args:
        se (nn.Module): What squeezes and excites the pooled features.

    Returns:
        Call: What the kernel ``mmcdnv2::pool_excite`` needs.

    Raises:
        UnsupportedError: If the kernel does not take it.
    """
    call = Call()
    call.add_se(se)
    return call


class Parts:
    """What was inside of a module when it was described.

    This is looked at before every call, so it keeps to what CPython does
    without a loop of its own.
    """

    def __init__(self, module: nn.Module, call: Call) -> None:
        children = [child for child in module.modules() if child is not module]
        self.hooks = [
            _global_forward_hooks,
            _global_forward_pre_hooks,
            *(child._forward_hooks for child in children),
            *(child._forward_pre_hooks for child in children),
        ]
        self.norms = [child for child in children if isinstance(child, _BatchNorm)]
        self.families = [parent._modules for parent in module.modules()]
        self.sizes = list(map(len, self.families))
        links = [
            (family, name, child)
            for family in self.families
            for name, child in family.items()
            if child is not None
        ]
        self.links = tuple(zip(*links))
        self.tensor_names = [name for _, name in call.sources]
        self.tensor_dicts = [
            owner._parameters if name in owner._parameters else owner._buffers
            for owner, name in call.sources
        ]

    def obstacle(self) -> Optional[str]:
        """Say what a kernel would skip; None if nothing."""
        if any(self.hooks):
            return 'a module inside of it has a hook'
        if any(map(_is_training, self.norms)):
            return 'a norm inside of it is in training mode'
        families, names, children = self.links
        if list(map(len, self.families)) != self.sizes or not all(
            map(operator.is_, map(dict.get, families, names), children)
        ):
            return 'a module inside of it was replaced'
        return None

    def tensors(self) -> List[Tensor]:
        """Collect the parameters and buffers as they are now."""
        return list(map(dict.get, self.tensor_dicts, self.tensor_names))


class KernelMixin:
    """Runs a module by a native kernel where that gives the same output.

    Stands before the other base class, which has the PyTorch form. A subclass
    says how it is called in :meth:`_describe`.
    """

    # A Call with its Parts, or why there is none; made at the first use.
    _described = None
    # Differs whenever the weights may have changed without a trace, as by
    # ``parameter.data.copy_``, which MMEngine's EMAHook does.
    _generation = 0
    # Only condensed layers are worth compiling the kernels for. What stands
    # around them uses them if they are there.
    _only_if_loaded = False

    def _describe(self) -> Call:
        """Describe the module; raises UnsupportedError if no kernel takes it."""
        raise NotImplementedError

    def kernel_args(self, *inputs: Tensor) -> Optional[KernelArgs]:
        """Collect what the kernel needs beside its inputs, if it can run now.

        Args:
            inputs (Tensor): What the module is called with.

        Returns:
            tuple: Parameters, spec and epsilons. None if PyTorch is to run.
        """
        if self.training or not self._suits(*inputs):
            return None
        if is_compiling():
            return self._compiled_args()
        # Derivatives that no_grad does not turn off.
        if forward_ad._current_level >= 0 or any(map(_is_functorch, inputs)):
            return None
        if self._described is None:
            self._described = self._description()
        call, parts, _ = self._described
        if call is None or parts.obstacle() or not self._has_kernels():
            return None
        spec = [self._generation, *call.spec]
        return parts.tensors(), spec, list(map(_eps, call.norms))

    def _compiled_args(self) -> Optional[KernelArgs]:
        """Do the same where what is looked up becomes part of a graph."""
        if torch.onnx.is_in_onnx_export() or not self._has_kernels():
            return None
        for child in self.modules():
            if child is not self and (child._forward_hooks or child._forward_pre_hooks):
                return None
            if child.training and isinstance(child, _BatchNorm):
                return None
        try:
            call = self._checked_call()
        except UnsupportedError:
            return None
        spec = [self._generation, *call.spec]
        return call.tensors(), spec, [norm.eps for norm in call.norms]

    def _has_kernels(self) -> bool:
        if self._only_if_loaded:
            return library.is_loaded()
        return library.is_available()

    def _suits(self, *inputs: Tensor) -> bool:
        """Whether a kernel may run now, on these inputs."""
        # A traced model is to run elsewhere; torch.fx traces without tensors.
        if torch.jit.is_tracing() or not all(isinstance(x, Tensor) for x in inputs):
            return False
        if torch.is_grad_enabled():
            tensors = (*inputs, *self.parameters())
            if any(tensor.requires_grad for tensor in tensors):
                return False
        for x in inputs:
            if not x.is_cpu or x.dtype != torch.float32 or x.dim() != 4:
                return False
        return not _is_autocast_enabled()

    def _checked_call(self) -> Call:
        call = self._describe()
        for tensor in call.tensors():
            if tensor.device.type != 'cpu' or (
                tensor.is_floating_point() and tensor.dtype != torch.float32
            ):
                raise UnsupportedError(f'it is {tensor.dtype} on {tensor.device}')
        return call

    def _description(self) -> tuple:
        try:
            call = self._checked_call()
        except UnsupportedError as reason:
            return None, None, str(reason)
        return call, Parts(self, call), None

    def kernel_obstacle(self) -> Optional[str]:
        """Say why the module runs on PyTorch in inference; None if it does not."""
        reason = library.obstacle()
        if reason:
            return reason
        call, parts, reason = self._description()
        return reason if call is None else parts.obstacle()

    def _renew(self) -> None:
        self.__dict__.pop('_described', None)
        self._generation = next(_generations)

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode; what is inside may have changed since."""
        self._renew()
        return super().train(mode)

    def _apply(self, *args, **kwargs) -> nn.Module:
        self._renew()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._renew()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> Dict:
        state = self.__dict__.copy()
        state.pop('_described', None)
        return state


def kernel_report(model: nn.Module) -> Dict[str, str]:
    """Say what the condensed parts of a model run on in inference.

    Args:
        model (nn.Module): Any model.

    Returns:
        dict[str, str]: By the names of its dense blocks and reactivations:
        'native kernels (...)' or 'PyTorch operators (...)', with the reason.
    """
    report: Dict[str, str] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f'{outer}.') for outer in report)
        if isinstance(module, KernelMixin) and not inside:
            reason = module.kernel_obstacle()
            report[name] = (
                f'PyTorch operators ({reason})' if reason else library.describe()
            )
    return report
