"""From a PyTorch module to an ONNX graph."""

import inspect
import warnings
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from .. import ops
from ..errors import InputError, in_one_line
from ..ops import library
from ..ops.kernel_module import plan_kernels
from .functions import inline_functions
from .operators import register_symbolics, translation_table
from .standard_form import to_standard_form

# ONNX Runtime 1.17, the oldest that our operators run in, reads no later one.
IR_VERSION = 8

# Name of a dimension that may change, and what it must be a multiple of.
Dynamic = Mapping[str, Mapping[int, Tuple[str, int]]]


def has_dynamo_exporter() -> bool:
    """Whether PyTorch exports by dynamo; before 2.6 it traces TorchScript."""
    return 'dynamo' in inspect.signature(torch.onnx.export).parameters


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Optional[Dynamic] = None,
    native: bool = False,
    gather: bool = True,
) -> onnx.ModelProto:
    """Write a module as an ONNX graph.

    Args:
        module (nn.Module): In evaluation mode; takes tensors and returns tensors.
        inputs (Mapping[str, Tensor]): What it is called with, by their names.
        outputs (Sequence[str]): Names of what it returns.
        dynamic (Mapping, optional): By input and axis, the name of a dimension
            that may change and what it is a multiple of. Defaults to none.
        native (bool): Whether condensed parts become operators of our own, which
            run on the native kernels. Defaults to False: standard operators, in the
            form that engines run fastest.
        gather (bool): Whether standard operators may copy channels by an index.
            Defaults to True.

    Returns:
        onnx.ModelProto: Of operator set 17 or later, its weights inside.

    Raises:
        InputError: If there are no native kernels, or PyTorch cannot export what
            is asked for.
    """
    if native and not ops.library.load():
        raise InputError(
            'The native operators are written by the native kernels, which do not run '
            f'here ({ops.describe()}): export standard operators.'
        )
    write = _by_dynamo if has_dynamo_exporter() else _by_torchscript
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(ops.use_kernels(native))
        stack.enter_context(library.kernels_in_exports())
        # Of shapes that are taken for constants, which where it matters they are.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore')
        folder = stack.enter_context(TemporaryDirectory())
        path = Path(folder) / 'network.onnx'
        module.eval()
        if native:
            plan_kernels(module)
        else:
            module = to_standard_form(module, gather)
        try:
            write(module, inputs, outputs, dynamic or {}, path)
        except Exception as error:
            # What a tracer raises is of no one kind.
            raise InputError(
                'PyTorch cannot export this network as it is asked for '
                f'({in_one_line(error):.300}): fewer dynamic dimensions may help, or '
                'another version of PyTorch.'
            ) from error
        model = onnx.load(str(path))
    return _tidied(inline_functions(model))


def _by_dynamo(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Dynamic,
    path: Path,
) -> None:
    dims: Dict[str, Any] = {}

    def dim_of(name: str, multiple: int) -> Any:
        if name not in dims:
            # Two is the least of which PyTorch takes no case for a constant.
            dims[name] = torch.export.Dim(name, min=1 if name == 'batch' else 2)
        return multiple * dims[name] if multiple > 1 else dims[name]

    shapes = tuple(
        {axis: dim_of(*each) for axis, each in dynamic.get(name, {}).items()} or None
        for name in inputs
    )
    program = torch.export.export(
        module, tuple(inputs.values()), dynamic_shapes=shapes, strict=False
    )
    torch.onnx.export(
        program,
        f=str(path),
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=18,
        dynamo=True,
        external_data=False,
        verbose=False,
        custom_translation_table=translation_table(),
    )


def _by_torchscript(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Dynamic,
    path: Path,
) -> None:
    axes = {
        name: {axis: dimension for axis, (dimension, _) in each.items()}
        for name, each in dynamic.items()
    }
    register_symbolics()
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        str(path),
        input_names=list(inputs),
        output_names=list(outputs),
        opset_version=17,
        dynamic_axes=axes,
    )


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Leave out what only a debugger reads; it would name this machine's paths."""
    model.ir_version = IR_VERSION
    graph = model.graph
    for each in (model, graph, *graph.node, *graph.input, *graph.output):
        each.ClearField('doc_string')
        if 'metadata_props' in each.DESCRIPTOR.fields_by_name:
            each.ClearField('metadata_props')
    for each in (*graph.initializer, *graph.value_info):
        each.ClearField('doc_string')
        each.ClearField('metadata_props')
    _make_constants_tensors(graph)
    return model


def _make_constants_tensors(graph: onnx.GraphProto) -> None:
    """Write the constants of a graph as tensors.

    Tools that rewrite ONNX files take a ``Constant`` with ``value_float`` for a double,
    or leave it as it is when they convert everything else to float16.
    """
    for node in graph.node:
        if node.op_type == 'Constant' and node.attribute[0].name != 'value':
            (attribute,) = node.attribute
            kind = np.float32 if 'float' in attribute.name else np.int64
            value = np.array(helper.get_attribute_value(attribute), kind)
            tensor = numpy_helper.from_array(value)
            attribute.CopyFrom(helper.make_attribute('value', tensor))
