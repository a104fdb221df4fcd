"""Compare the outputs of a sparse and a condensed model.

The models are compared part by part: each part of the condensed model runs on the
recorded inputs of the sparse model's part. So a detector may choose other proposals
or queries between two parts where scores are nearly equal.
"""

import copy
import functools
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

import torch
from mmdet.models.roi_heads import BaseRoIHead
from mmengine.model import BaseModel
from mmengine.utils import apply_to
from torch import Tensor, nn

from ..errors import InputError
from ..layers import sparse_layers

# Modules that only connect parts and may choose among their outputs.
_CONTAINERS = (BaseModel, BaseRoIHead)


@dataclass
class Call:
    """A call of a part of a model.

    Attributes:
        name (str): Name of the part.
        args (tuple): Copies of its positional arguments.
        kwargs (dict): Copies of its keyword arguments.
        outputs (list[Tensor]): Copies of the floating-point tensors that it
            returned, flattened.
        not_finite (str, optional): Name of the first module, in execution
            order, that returned a NaN or an infinite value.
    """

    name: str
    args: tuple
    kwargs: dict
    outputs: List[Tensor] = field(default_factory=list)
    not_finite: Optional[str] = None


@torch.no_grad()
def record_calls(
    model: nn.Module, inputs: Tensor, samples: list, source: Union[str, Path]
) -> Tuple[List[Call], List[Call]]:
    """Run a sparse model and record the inputs and outputs of its parts.

    The model runs in tensor mode, or in predict mode if tensor mode needs
    annotations. Nested models that are not called, such as the student of a
    semi-supervised detector, run separately.

    Args:
        model (nn.Module): A sparse classifier or detector.
        inputs (Tensor): A batch of one, shape (1, 3, H, W).
        samples (list): Its data samples.
        source (str | Path): Source of the weights, for the message.

    Returns:
        tuple[list[Call], list[Call]]: The calls of the parts in execution
        order, and one call of each sparse layer on random values.

    Raises:
        InputError: If no part can be run, or one returns NaN or infinite values.
    """
    with _watch(model) as calls:
        error = _run(model, inputs, samples)
        for name, part in model.named_modules():
            is_model = name and isinstance(part, BaseModel)
            if is_model and not any(c.name.startswith(f'{name}.') for c in calls):
                _run(part, inputs, samples)
        if not calls:
            raise InputError(
                'The model cannot be run on an input of '
                f'{inputs.size(2)} x {inputs.size(3)} pixels: {error}'
            )
    with _watch(model) as layer_calls:
        for layer in sparse_layers(model).values():
            layer(torch.randn(1, layer.in_channels, 7, 7))
    for call in (*calls, *layer_calls):
        if not _all_finite(call.outputs):
            first = _first_not_finite(call, model, model)
            raise InputError(
                f'The sparse model with the weights of {source} returns NaN or '
                f'infinite values, first in {first}, so nothing was written; condense '
                'an earlier checkpoint or train again.'
            )
    return calls, layer_calls


@torch.no_grad()
def largest_difference(
    sparse: nn.Module, condensed: nn.Module, calls: List[Call]
) -> Tuple[float, str]:
    """Repeat recorded calls in the condensed model and compare the outputs.

    Args:
        sparse (nn.Module): The recorded model.
        condensed (nn.Module): Its condensed form.
        calls (list[Call]): Calls from :func:`record_calls`.

    Returns:
        tuple[float, str]: The largest difference of an output, relative to
        that output's largest value, and the name of its part. The difference is
        infinite if shapes differ, or the sparse output is zero and the condensed
        one is not.

    Raises:
        InputError: If a part returns NaN or infinite values.
    """
    differences = []
    for call in calls:
        outputs = _float_tensors(_repeat(call, sparse, condensed))
        if not _all_finite(outputs):
            raise InputError(
                'The condensed model returns NaN or infinite values, first in '
                f'{_first_not_finite(call, sparse, condensed)}, where the sparse '
                'model returns finite ones, so nothing was written. This is a bug '
                'of mmcdnv2, please report it.'
            )
        differences.append((_difference(call.outputs, outputs), call.name))
    return max(differences)


@contextmanager
def _watch(model: nn.Module) -> Iterator[List[Call]]:
    """Record the outermost calls of a model's parts.

    Wraps ``forward``, because MMDetection calls ``forward`` of some heads
    directly, which bypasses hooks.
    """
    # Modules among the arguments are not copied.
    modules = _counterparts(model, model)
    calls: List[Call] = []
    current: Optional[Call] = None

    def watched(name: str, forward: Callable) -> Callable:
        @functools.wraps(forward)
        def wrapper(*args, **kwargs) -> Any:
            nonlocal current
            outermost = current is None
            if outermost:
                # Copied, as the part may change its inputs in place.
                current = Call(name, *copy.deepcopy((args, kwargs), dict(modules)))
            call = current
            try:
                result = forward(*args, **kwargs)
            finally:
                if outermost:
                    current = None
            outputs = _float_tensors(result)
            if call.not_finite is None and not _all_finite(outputs):
                call.not_finite = name
            if outermost:
                call.outputs = [output.clone() for output in outputs]
                calls.append(call)
            return result

        return wrapper

    replaced = []
    for name, module in model.named_modules():
        if not isinstance(module, _CONTAINERS):
            replaced.append((module, vars(module).get('forward')))
            module.forward = watched(name, module.forward)
    try:
        yield calls
    finally:
        for module, own_forward in replaced:
            del module.forward
            if own_forward is not None:
                module.forward = own_forward


def _run(model: nn.Module, inputs: Tensor, samples: list) -> Optional[Exception]:
    """Run a model in tensor or predict mode and return the error, if any."""
    error = None
    for mode in ('tensor', 'predict'):
        try:
            model(inputs, copy.deepcopy(samples), mode=mode)
        except Exception as reason:
            # Some detectors compute losses in tensor mode and raise various
            # errors without annotations.
            error = reason
        else:
            return None
    return error


def _counterparts(model: nn.Module, other: nn.Module) -> Dict[int, nn.Module]:
    """Map the ids of a model's modules to another model's modules of same name."""
    others = dict(other.named_modules())
    return {
        id(module): others[name]
        for name, module in model.named_modules()
        if name in others
    }


def _repeat(call: Call, recorded: nn.Module, model: nn.Module) -> Any:
    """Repeat a call recorded in one model in another model."""
    # Some arguments are modules: DINO's decoder gets the head's branches.
    memo = _counterparts(recorded, model)
    args, kwargs = copy.deepcopy((call.args, call.kwargs), memo)
    return model.get_submodule(call.name)(*args, **kwargs)


def _first_not_finite(call: Call, recorded: nn.Module, model: nn.Module) -> str:
    """Find the first module, in execution order, that returns such values."""
    # Wrapped modules run on PyTorch one by one, not on a kernel as a whole.
    with _watch(model) as calls:
        _repeat(call, recorded, model)
    name = calls[-1].not_finite or call.name
    return f'{name} ({type(model.get_submodule(name)).__name__})'


def _float_tensors(outputs: Any) -> List[Tensor]:
    found: List[Tensor] = []
    apply_to(outputs, torch.is_tensor, found.append)
    return [tensor for tensor in found if tensor.is_floating_point()]


def _all_finite(tensors: List[Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _difference(expected: List[Tensor], actual: List[Tensor]) -> float:
    if [x.shape for x in expected] != [x.shape for x in actual]:
        return math.inf
    differences = [0.0]
    for x, y in zip(expected, actual):
        if not torch.equal(x, y):
            largest = x.abs().max().item()
            difference = (x.double() - y.double()).abs().max().item()
            differences.append(difference / largest if largest else math.inf)
    return max(differences)
