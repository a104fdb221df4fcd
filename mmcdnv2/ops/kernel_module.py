"""Modules that run on a native kernel where it gives the same output."""

import operator
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Type

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from ..mixin import ModuleMixin
from . import library
from .compat import is_autocast_enabled, is_compiling
from .kernel_arguments import KernelArguments, UnsupportedError

_BatchNorm = nn.modules.batchnorm._BatchNorm
_training = operator.itemgetter('training')
_eps = operator.itemgetter('eps')
_active_functorch = torch._C._functorch.peek_interpreter_stack

# Parameters, spec, epsilons and the operator's options.
KernelArgs = Tuple[Any, ...]


class Structure:
    """A module's parts as they were when its kernel's arguments were collected.

    This is compared before every call, so it keeps to what CPython does fast.

    Args:
        module (nn.Module): The module that a kernel runs as a whole.
        arguments (KernelArguments): The kernel's arguments; none where no
            kernel takes it.
    """

    def __init__(self, module: nn.Module, arguments: KernelArguments) -> None:
        children = [child for child in module.modules() if child is not module]
        self.hooks = [
            _global_forward_hooks,
            _global_forward_pre_hooks,
            *(child._forward_hooks for child in children),
            *(child._forward_pre_hooks for child in children),
        ]
        self.kinds: List[Type[nn.Module]] = list(set(map(type, children)))
        self.forwards = [kind.forward for kind in self.kinds]
        self.attributes = list(map(vars, children))
        self.patched = ['forward' in attributes for attributes in self.attributes]
        norms = [child for child in children if isinstance(child, _BatchNorm)]
        self.norms = list(map(vars, norms))
        self.eps_owners = list(map(vars, arguments.norms))
        # Dicts compare their values by identity first, which is all that modules
        # have.
        self.families = [
            parent._modules for parent in module.modules() if parent._modules
        ]
        self.copies = list(map(dict, self.families))
        self.tensor_names = [name for _, name in arguments.sources]
        self.tensor_dicts = [
            owner._parameters if name in owner._parameters else owner._buffers
            for owner, name in arguments.sources
        ]

    def skipped_by_kernel(self) -> Optional[str]:
        """Name what is set on a module inside and a kernel would skip, if any."""
        if any(self.hooks):
            return 'a module inside of it has a hook'
        if any(map(_training, self.norms)):
            return 'a norm inside of it is in training mode'
        return None

    def has_changed(self) -> bool:
        """Whether a module inside, or the forward of one, was replaced."""
        return (
            self.families != self.copies
            or [kind.forward for kind in self.kinds] != self.forwards
            or ['forward' in each for each in self.attributes] != self.patched
        )

    def tensors(self) -> List[Tensor]:
        """Collect the parameters and buffers as they are now.

        Raises:
            KeyError: If one is gone: a parametrization computes it.
        """
        return list(map(operator.getitem, self.tensor_dicts, self.tensor_names))

    def eps(self) -> List[float]:
        """Collect the norms' epsilons as they are now."""
        return list(map(_eps, self.eps_owners))


class Plan(NamedTuple):
    """The way a module runs on its kernel, or the reason why it does not.

    Attributes:
        arguments (KernelArguments): What the kernel is called with.
        structure (Structure): The module's parts.
        settings (object): :meth:`KernelMixin._kernel_settings` as it was.
        reason (str, optional): Why no kernel takes the module.
    """

    arguments: KernelArguments
    structure: Structure
    settings: object = None
    reason: Optional[str] = None


class KernelMixin(ModuleMixin):
    """Runs a module by a native kernel where that gives the same output.

    List it before the other base class, which has the PyTorch form. A subclass
    collects the kernel's arguments in :meth:`_kernel_arguments`.
    """

    # Made at the first use; dropped when the mode is set, the module converted
    # or loaded, or a part replaced.
    _plan: Optional[Plan] = None
    # Only condensed layers are worth compiling the kernels for. Other modules
    # use them if they are loaded.
    _only_if_loaded = False
    # Whether what is inside has kernels of its own, which are what is reported
    # and exported.
    _is_a_whole = False

    def _kernel_arguments(self) -> KernelArguments:
        """Collect the kernel's arguments, in its order.

        Raises:
            UnsupportedError: If no kernel takes the module.
        """
        raise NotImplementedError

    def _kernel_settings(self) -> object:
        """Collect what else the arguments depend on and may be set anew."""
        return None

    def kernel_args(self, *inputs: Tensor) -> Optional[KernelArgs]:
        """Collect what the kernel needs besides its inputs, if it can run now.

        Args:
            inputs (Tensor): What the module is called with.

        Returns:
            tuple: Parameters, spec, epsilons and the operator's options. None if
            PyTorch is to run.
        """
        if self.training or not self._suits(*inputs):
            return None
        if self._is_a_whole and library.records_kernels():
            return None
        if is_compiling():
            return self._traced_args()
        # Derivatives that no_grad does not turn off, and batched weights.
        if forward_ad._current_level >= 0 or _active_functorch() is not None:
            return None
        # Another thread may drop the plan at any time.
        plan = self._plan
        if (
            plan is None
            or plan.settings != self._kernel_settings()
            or plan.structure.has_changed()
        ):
            plan = self._plan = self._make_plan()
        arguments, structure, _, reason = plan
        if reason or structure.skipped_by_kernel() or not self._has_kernels():
            return None
        try:
            tensors = structure.tensors()
        except KeyError:
            self._plan = None
            return None
        return (tensors, arguments.spec, structure.eps(), *arguments.options)

    def _traced_args(self) -> Optional[KernelArgs]:
        """Do the same where what is looked up becomes part of a graph."""
        if torch.onnx.is_in_onnx_export() or not self._has_kernels():
            return None
        if library.records_kernels():
            # torch.export hands out stand-ins for modules, of other types.
            plan = self._plan
            if plan is None or plan.reason or plan.structure.skipped_by_kernel():
                return None
            eps = plan.structure.eps()
            spec, options = plan.arguments.spec, plan.arguments.options
            return (plan.arguments.tensors(), spec, eps, *options)
        for child in self.modules():
            if child is not self and (child._forward_hooks or child._forward_pre_hooks):
                return None
            if child.training and isinstance(child, _BatchNorm):
                return None
        try:
            arguments = self._kernel_arguments()
        except UnsupportedError:
            return None
        eps = [norm.eps for norm in arguments.norms]
        return (arguments.tensors(), arguments.spec, eps, *arguments.options)

    def _has_kernels(self) -> bool:
        if self._only_if_loaded:
            return library.is_loaded()
        return library.load()

    def _suits(self, *inputs: Tensor) -> bool:
        """Whether a kernel may run now, on these inputs."""
        # A traced model is to run elsewhere; torch.fx traces without tensors.
        if (torch.jit.is_tracing() and not library.records_kernels()) or not all(
            isinstance(x, Tensor) for x in inputs
        ):
            return False
        if torch.is_grad_enabled():
            tensors = (*inputs, *self.parameters())
            if any(tensor.requires_grad for tensor in tensors):
                return False
        for x in inputs:
            if not x.is_cpu or x.dtype != torch.float32 or x.dim() != 4:
                return False
        return not is_autocast_enabled()

    def _make_plan(self) -> Plan:
        settings = self._kernel_settings()
        try:
            arguments = self._kernel_arguments()
        except UnsupportedError as reason:
            nothing = KernelArguments()
            return Plan(nothing, Structure(self, nothing), settings, str(reason))
        return Plan(arguments, Structure(self, arguments), settings)

    def runs_on(self) -> str:
        """Say what the module runs on in inference.

        Returns:
            str: 'native kernels (...)' or 'PyTorch operators (...)', with the
            instruction set or the reason.
        """
        if library.load():
            plan = self._make_plan()
            reason = plan.reason or plan.structure.skipped_by_kernel()
            if reason:
                return f'PyTorch operators ({reason})'
        return library.describe()

    def _drop_plan(self) -> None:
        plan = self.__dict__.pop('_plan', None)
        if plan is not None and plan.arguments.sources:
            owner, name = plan.arguments.sources[0]
            library.forget(getattr(owner, name))

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode; what is inside may have changed since."""
        self._drop_plan()
        return super().train(mode)

    def _apply(self, *args, **kwargs) -> nn.Module:
        self._drop_plan()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._drop_plan()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> Dict:
        state = self.__dict__.copy()
        state.pop('_plan', None)
        return state


def plan_kernels(model: nn.Module) -> None:
    """Find the kernels of a model's parts before it is exported.

    Inside of :func:`~mmcdnv2.ops.library.kernels_in_exports` they are what is
    recorded.

    Args:
        model (nn.Module): In evaluation mode.
    """
    for module in model.modules():
        if isinstance(module, KernelMixin):
            module._plan = module._make_plan()


def kernel_report(model: nn.Module) -> Dict[str, str]:
    """Say what the condensed parts of a model run on in inference.

    Args:
        model (nn.Module): Any model.

    Returns:
        dict[str, str]: :meth:`KernelMixin.runs_on` by the names of its dense
        blocks and reactivations.
    """
    report: Dict[str, str] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f'{outer}.') for outer in report)
        if isinstance(module, KernelMixin) and not (inside or module._is_a_whole):
            report[name] = module.runs_on()
    return report
