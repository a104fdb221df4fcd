"""Modules that run on a native kernel if it computes the same output."""

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
    """A snapshot of a module's parts, taken with its kernel's arguments.

    It is compared before every call, so it uses only operations that are fast in
    CPython.

    Args:
        module (nn.Module): The module that a kernel runs as a whole.
        arguments (KernelArguments): The kernel's arguments; empty if no kernel
            supports the module.
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
        # Dicts compare values by identity first; modules have no other equality.
        self.child_dicts = [
            parent._modules for parent in module.modules() if parent._modules
        ]
        self.copies = list(map(dict, self.child_dicts))
        self.tensor_names = [name for _, name in arguments.sources]
        self.tensor_dicts = [
            owner._parameters if name in owner._parameters else owner._buffers
            for owner, name in arguments.sources
        ]

    def skipped_by_kernel(self) -> Optional[str]:
        """Return a reason if a child has a hook or mode that a kernel would ignore."""
        if any(self.hooks):
            return 'a module inside it has a hook'
        if any(map(_training, self.norms)):
            return 'a norm inside it is in training mode'
        return None

    def has_changed(self) -> bool:
        """Return whether a child, or a child's forward, was replaced."""
        return (
            self.child_dicts != self.copies
            or [kind.forward for kind in self.kinds] != self.forwards
            or ['forward' in each for each in self.attributes] != self.patched
        )

    def tensors(self) -> List[Tensor]:
        """Return the current parameters and buffers.

        Raises:
            KeyError: If one was removed, for example by a parametrization.
        """
        return list(map(operator.getitem, self.tensor_dicts, self.tensor_names))

    def eps(self) -> List[float]:
        """Return the norms' current epsilons."""
        return list(map(_eps, self.eps_owners))


class Plan(NamedTuple):
    """A module's kernel arguments, or the reason why it has no kernel.

    Attributes:
        arguments (KernelArguments): The kernel's arguments.
        structure (Structure): Snapshot of the module's parts.
        settings (object): Snapshot of :meth:`KernelMixin._kernel_settings`.
        reason (str, optional): Why no kernel supports the module.
    """

    arguments: KernelArguments
    structure: Structure
    settings: object = None
    reason: Optional[str] = None


class KernelMixin(ModuleMixin):
    """Run a module on a native kernel if that computes the same output.

    List it before the other base class, which has the PyTorch implementation. A
    subclass collects the kernel's arguments in :meth:`_kernel_arguments`.
    """

    # Made at first use; dropped when the mode is set, the module is converted or
    # loaded, or a part is replaced.
    _plan: Optional[Plan] = None
    # Only condensed layers are worth compiling the kernels. Other modules use them
    # if they are loaded.
    _only_if_loaded = False
    # True if reports and exports use the kernels of the parts instead.
    _reports_parts = False

    def _kernel_arguments(self) -> KernelArguments:
        """Collect the kernel's arguments, in its order.

        Raises:
            UnsupportedError: If no kernel supports the module.
        """
        raise NotImplementedError

    def _kernel_settings(self) -> object:
        """Return mutable settings of the module that the arguments depend on."""
        return None

    def kernel_args(self, *inputs: Tensor) -> Optional[KernelArgs]:
        """Return the kernel's arguments after its inputs, if it can run now.

        Args:
            inputs (Tensor): The module's inputs.

        Returns:
            tuple: Parameters, spec, epsilons and the operator's options. None if
            PyTorch must run.
        """
        if self.training or not self._accepts(*inputs):
            return None
        if self._reports_parts and library.is_exporting():
            return None
        if is_compiling():
            return self._traced_args()
        # Forward-mode AD, which no_grad does not disable, and vmap.
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
        """Return the kernel's arguments while a graph is traced."""
        if torch.onnx.is_in_onnx_export() or not self._has_kernels():
            return None
        if library.is_exporting():
            # torch.export replaces modules by proxies of other types.
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

    def _accepts(self, *inputs: Tensor) -> bool:
        """Return whether a kernel may run now on these inputs."""
        # Traced models must run without kernels; torch.fx traces without tensors.
        if (torch.jit.is_tracing() and not library.is_exporting()) or not all(
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
        """Return the implementation that the module runs on in evaluation mode.

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
        """Set the mode and drop the plan, as parts may have changed."""
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
    """Plan the kernels of a model's parts before an export.

    Inside :func:`~mmcdnv2.ops.library.kernels_in_exports` the exporter records
    these kernels.

    Args:
        model (nn.Module): In evaluation mode.
    """
    for module in model.modules():
        if isinstance(module, KernelMixin):
            module._plan = module._make_plan()


def kernel_report(model: nn.Module) -> Dict[str, str]:
    """Return the implementation that each condensed part runs on.

    Args:
        model (nn.Module): Any model.

    Returns:
        dict[str, str]: :meth:`KernelMixin.runs_on` by part name, for example of
        dense blocks and reactivations.
    """
    report: Dict[str, str] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f'{outer}.') for outer in report)
        if isinstance(module, KernelMixin) and not (inside or module._reports_parts):
            report[name] = module.runs_on()
    return report
