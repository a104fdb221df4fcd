"""The parts of an exported file that no tracer writes, as ONNX functions.

They use what operator sets 17 and later have in common.
"""

from typing import Any, Dict, List

import onnx
import onnx.inliner
from onnxscript import opset17, script
from onnxscript.onnx_types import FLOAT, INT64
from onnxscript.values import Opset

from .operators import FUNCTION_DOMAIN

# Its operators are typed by more than mypy can follow.
op: Any = opset17
_domain = Opset(FUNCTION_DOMAIN, 1)


@script(_domain)
def SelectBoxes(  # noqa: N802
    boxes: FLOAT,
    scores: FLOAT,
    iou_threshold: float,
    score_threshold: float,
    max_per_image: int,
):
    """See :func:`~mmcdnv2.export.operators.select_boxes`."""
    limit = op.Constant(value_int=max_per_image)
    row = op.Constant(value_ints=[-1])
    chosen = op.NonMaxSuppression(
        boxes,
        scores,
        limit,
        op.Constant(value_float=iou_threshold),
        op.Constant(value_float=score_threshold),
    )
    value = op.GatherND(scores, chosen)
    image = op.Gather(chosen, op.Constant(value_int=0), axis=1)
    label = op.Gather(chosen, op.Constant(value_int=1), axis=1)
    box = op.Gather(chosen, op.Constant(value_int=2), axis=1)
    index = label * op.Shape(boxes, start=1, end=2) + box
    # Each image's own, and as many of no value as it may return.
    images = op.Range(
        op.Constant(value_int=0),
        op.Squeeze(op.Shape(boxes, start=0, end=1)),
        op.Constant(value_int=1),
    )
    none = op.Constant(value_float=float('-inf'))
    own = op.Where(
        op.Equal(op.Unsqueeze(images, op.Constant(value_ints=[1])), image), value, none
    )
    padding = op.Expand(
        none,
        op.Concat(op.Shape(boxes, start=0, end=1), op.Reshape(limit, row), axis=0),
    )
    values, order = op.TopK(
        op.Concat(own, padding, axis=1), op.Reshape(limit, row), axis=1
    )
    zero = op.Constant(value_int=0)
    places = op.Concat(index, op.Expand(zero, op.Reshape(limit, row)), axis=0)
    found = op.Where(op.Greater(values, none), op.Gather(places, order), zero)
    return found, values


@script(_domain)
def LevelFeatures(  # noqa: N802
    feats: FLOAT,
    regions: FLOAT,
    levels: INT64,
    level: int,
    size: int,
    scale: float,
    sampling_ratio: int,
    mode: str,
):
    """One level's part of :func:`~mmcdnv2.export.operators.region_features`."""
    own = op.NonZero(op.Equal(levels, op.Constant(value_int=level)))
    index = op.Squeeze(own, op.Constant(value_ints=[0]))
    rows = op.Gather(regions, index)
    corners = op.Slice(
        rows,
        op.Constant(value_ints=[1]),
        op.Constant(value_ints=[5]),
        op.Constant(value_ints=[1]),
    )
    image = op.Cast(op.Gather(rows, op.Constant(value_int=0), axis=1), to=7)
    found = op.RoiAlign(
        feats,
        corners,
        image,
        coordinate_transformation_mode=mode,
        output_height=size,
        output_width=size,
        sampling_ratio=sampling_ratio,
        spatial_scale=scale,
    )
    return found, index


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the calls of our functions by the nodes that they stand for.

    Args:
        model (onnx.ModelProto): May call the functions above.

    Returns:
        onnx.ModelProto: Without them.
    """
    version = next(each.version for each in model.opset_import if each.domain == '')
    called = {
        node.op_type for node in model.graph.node if node.domain == FUNCTION_DOMAIN
    }
    functions: List[Any] = [
        each.to_function_proto()
        for each in (SelectBoxes, LevelFeatures)
        if each.name in called
    ]
    if not functions:
        return model
    for function in functions:
        for each in function.opset_import:
            if each.domain == '':
                each.version = version
    model.functions.extend(functions)
    domains: Dict[str, int] = {each.domain: each.version for each in model.opset_import}
    if FUNCTION_DOMAIN not in domains:
        model.opset_import.append(onnx.helper.make_opsetid(FUNCTION_DOMAIN, 1))
    model = onnx.inliner.inline_local_functions(model)
    kept = [each for each in model.opset_import if each.domain != FUNCTION_DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model
