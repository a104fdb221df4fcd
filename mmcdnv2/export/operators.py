"""The operators that a traced network may call, and their form in an ONNX file.

Three kinds: the native kernels, which become operators of our own domain; and box
selection and the features of regions, whose number of results depends on the data. No
tracer of PyTorch follows those, so a network calls them as operators with results of
fixed size, which become functions of standard operators (``functions.py``).
"""

import functools
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, roi_align

from ..ops import library as kernels

# The domain of the native operators in ONNX, and that of the functions.
NATIVE_DOMAIN = 'mmcdnv2'
FUNCTION_DOMAIN = 'mmcdnv2.export'

_NAMESPACE = 'mmcdnv2_export'
_library = torch.library.Library(_NAMESPACE, 'DEF')
_library.define(
    'select_boxes(Tensor boxes, Tensor scores, float iou_threshold, '
    'float score_threshold, int max_per_image) -> (Tensor, Tensor)'
)
_library.define(
    'region_features(Tensor[] feats, Tensor regions, Tensor levels, int size, '
    'float[] scales, int sampling_ratio, bool aligned) -> (Tensor, Tensor)'
)


def _select_boxes(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_per_image: int,
) -> Tuple[Tensor, Tensor]:
    batch, classes, number = scores.shape
    index = boxes.new_zeros((batch, max_per_image), dtype=torch.long)
    values = scores.new_full((batch, max_per_image), -torch.inf)
    for i in range(batch):
        passed = (scores[i] > score_threshold).flatten().nonzero()[:, 0]
        found = scores[i].flatten()[passed]
        kept = batched_nms(
            boxes[i][passed % number], found, passed // number, iou_threshold
        )[:max_per_image]
        index[i, : len(kept)] = passed[kept]
        values[i, : len(kept)] = found[kept]
    return index, values


def _fake_select_boxes(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_per_image: int,
) -> Tuple[Tensor, Tensor]:
    shape = (boxes.size(0), max_per_image)
    return boxes.new_empty(shape, dtype=torch.long), scores.new_empty(shape)


def _region_features(
    feats: List[Tensor],
    regions: Tensor,
    levels: Tensor,
    size: int,
    scales: List[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tuple[Tensor, Tensor]:
    found, order = [], []
    for level, (feat, scale) in enumerate(zip(feats, scales)):
        index = (levels == level).nonzero()[:, 0]
        found.append(
            roi_align(feat, regions[index], size, scale, sampling_ratio, aligned)
        )
        order.append(index)
    return torch.cat(found), torch.cat(order)


def _fake_region_features(
    feats: List[Tensor],
    regions: Tensor,
    levels: Tensor,
    size: int,
    scales: List[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tuple[Tensor, Tensor]:
    number = regions.size(0)
    return (
        feats[0].new_empty(number, feats[0].size(1), size, size),
        regions.new_empty(number, dtype=torch.long),
    )


_library.impl('select_boxes', _select_boxes, 'CPU')
_library.impl('select_boxes', _fake_select_boxes, 'Meta')
_library.impl('region_features', _region_features, 'CPU')
_library.impl('region_features', _fake_region_features, 'Meta')


def select_boxes(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_per_image: int,
) -> Tuple[Tensor, Tensor]:
    """Suppress boxes that overlap one of their class with a higher score.

    Args:
        boxes (Tensor): Shape (N, B, 4), corners.
        scores (Tensor): Shape (N, C, B), for each class.
        iou_threshold (float): Overlap from which a box is suppressed.
        score_threshold (float): Scores must be above it.
        max_per_image (int): Number of results of an image, K.

    Returns:
        tuple[Tensor]: The best boxes by falling score, as class * B + box, and
        their scores, both of shape (N, K). Where there are fewer, the index is 0
        and the score minus infinity.
    """
    return torch.ops.mmcdnv2_export.select_boxes(
        boxes, scores, float(iou_threshold), float(score_threshold), int(max_per_image)
    )


def region_features(
    feats: Sequence[Tensor],
    regions: Tensor,
    levels: Tensor,
    size: int,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tuple[Tensor, Tensor]:
    """Sample the features of regions, each from one level of a pyramid.

    Args:
        feats (Sequence[Tensor]): Shapes (N, C, H_i, W_i).
        regions (Tensor): Shape (R, 5): image, left, top, right, bottom.
        levels (Tensor): Shape (R,), the level of each region.
        size (int): Height and width of a region's features.
        scales (Sequence[float]): From pixels of the image to those of each level.
        sampling_ratio (int): Samples in each bin and direction; 0 for as many as
            there are pixels.
        aligned (bool): Whether pixels have their centre at a half.

    Returns:
        tuple[Tensor]: The features, shape (R, C, size, size), level by level, and
        the region that each belongs to, shape (R,).
    """
    return torch.ops.mmcdnv2_export.region_features(
        list(feats),
        regions,
        levels,
        int(size),
        [float(scale) for scale in scales],
        int(sampling_ratio),
        bool(aligned),
    )


# By the operator's name in PyTorch: its name in ONNX, the number of its inputs before
# the parameters, and the names of what follows these.
_NATIVE = {
    'stem': ('Stem', 1, ('spec', 'eps', 'out_channels')),
    'dense_block': ('DenseBlock', 1, ('spec', 'eps', 'pool', 'new_channels')),
    'reactivate': ('Reactivate', 2, ('spec', 'eps')),
    'pool_excite': ('PoolExcite', 1, ('spec', 'eps')),
    'learned_group_conv': ('LearnedGroupConv', 1, ('spec', 'eps', 'out_channels')),
}
_FLOATS, _INTEGERS = ('eps',), ('pool', 'new_channels', 'out_channels')


def _native_attributes(names: Sequence[str], values: Sequence[Any]) -> Dict[str, Any]:
    """Turn an operator's last arguments into attributes; empty ones are left out."""
    attributes: Dict[str, Any] = {}
    for name, value in zip(names, values):
        if name in _INTEGERS:
            attributes[name] = int(value)
        elif value:
            attributes[name] = list(value)
    return attributes


@functools.lru_cache(maxsize=None)
def _opset(domain: str) -> Any:
    """Tell onnx what our operators take; return what writes calls of them."""
    from onnx.defs import OpSchema, register_schema
    from onnxscript.values import Opset

    parameter, option = OpSchema.FormalParameter, OpSchema.FormalParameterOption
    kind = OpSchema.AttrType
    types = [('T', ['tensor(float)', 'tensor(int64)'], '')]

    def register(
        name: str, inputs: List[Any], outputs: List[str], attributes: Dict[str, Any]
    ) -> None:
        register_schema(
            OpSchema(
                name,
                domain,
                1,
                inputs=inputs,
                outputs=[
                    parameter(f'out_{i}', f'tensor({each})')
                    for i, each in enumerate(outputs)
                ],
                type_constraints=types,
                attributes=[
                    OpSchema.Attribute(each, kind, required=False)
                    for each, kind in attributes.items()
                ],
            )
        )

    if domain == NATIVE_DOMAIN:
        # One list of inputs: onnxscript repeats those that come before a list.
        inputs = [
            parameter(
                'inputs',
                'T',
                param_option=option.Variadic,
                is_homogeneous=False,
                min_arity=1,
            )
        ]
        for name, _, attributes in _NATIVE.values():
            types_of = {
                each: kind.FLOATS
                if each in _FLOATS
                else kind.INT
                if each in _INTEGERS
                else kind.INTS
                for each in attributes
            }
            register(name, inputs, ['float'], types_of)
    else:
        register(
            'SelectBoxes',
            [parameter('boxes', 'T'), parameter('scores', 'T')],
            ['int64', 'float'],
            dict(
                iou_threshold=kind.FLOAT,
                score_threshold=kind.FLOAT,
                max_per_image=kind.INT,
            ),
        )
        register(
            'LevelFeatures',
            [
                parameter('feats', 'T'),
                parameter('regions', 'T'),
                parameter('levels', 'tensor(int64)'),
            ],
            ['float', 'int64'],
            dict(
                level=kind.INT,
                size=kind.INT,
                scale=kind.FLOAT,
                sampling_ratio=kind.INT,
                mode=kind.STRING,
            ),
        )
    return Opset(domain, 1)


def _mode(aligned: bool) -> str:
    return 'half_pixel' if aligned else 'output_half_pixel'


def translation_table() -> Dict[Any, Callable]:
    """Say how ``torch.onnx.export`` with ``dynamo=True`` writes our operators.

    Returns:
        dict: Its ``custom_translation_table``.
    """
    from onnxscript import opset18 as op

    def native(name: str, inputs: int, attributes: Sequence[str]) -> Callable:
        call = getattr(_opset(NATIVE_DOMAIN), name)

        def translate(*args: Any) -> Any:
            values = _native_attributes(attributes, args[inputs + 1 :])
            return call(*args[:inputs], *args[inputs], **values)

        return translate

    def select(boxes: Any, scores: Any, *args: Any) -> Any:
        iou, score, number = args
        return _opset(FUNCTION_DOMAIN).SelectBoxes(
            boxes,
            scores,
            iou_threshold=iou,
            score_threshold=score,
            max_per_image=number,
        )

    def regions(feats: Any, rois: Any, levels: Any, *args: Any) -> Any:
        size, scales, sampling_ratio, aligned = args
        found, order = [], []
        for i, (feat, scale) in enumerate(zip(feats, scales)):
            each, index = _opset(FUNCTION_DOMAIN).LevelFeatures(
                feat,
                rois,
                levels,
                level=i,
                size=size,
                scale=scale,
                sampling_ratio=sampling_ratio,
                mode=_mode(aligned),
            )
            found.append(each)
            order.append(index)
        return op.Concat(*found, axis=0), op.Concat(*order, axis=0)

    table: Dict[Any, Callable] = {
        torch.ops.mmcdnv2_export.select_boxes.default: select,
        torch.ops.mmcdnv2_export.region_features.default: regions,
    }
    if kernels.is_loaded():
        for name, each in _NATIVE.items():
            table[getattr(torch.ops.mmcdnv2, name).default] = native(*each)
    return table


def register_symbolics() -> None:
    """Say the same to the exporter of PyTorch before 2.6, which traces TorchScript."""
    from torch.onnx import register_custom_op_symbolic, symbolic_helper

    opset = 17

    def native(name: str, inputs: int, attributes: Sequence[str]) -> Callable:
        def symbolic(g: Any, *args: Any) -> Any:
            values = [
                symbolic_helper._maybe_get_const(arg, _TORCHSCRIPT_KINDS[each])
                for each, arg in zip(attributes, args[inputs + 1 :])
            ]
            named = {
                f'{each}_{"f" if each in _FLOATS else "i"}': value
                for each, value in _native_attributes(attributes, values).items()
            }
            params = symbolic_helper._unpack_list(args[inputs])
            return g.op(f'{NATIVE_DOMAIN}::{name}', *args[:inputs], *params, **named)

        return symbolic

    @symbolic_helper.parse_args('v', 'v', 'f', 'f', 'i')
    def select(g: Any, boxes: Any, scores: Any, iou: float, score: float, n: int):
        return g.op(
            f'{FUNCTION_DOMAIN}::SelectBoxes',
            boxes,
            scores,
            iou_threshold_f=iou,
            score_threshold_f=score,
            max_per_image_i=n,
            outputs=2,
        )

    @symbolic_helper.parse_args('v', 'v', 'v', 'i', 'fs', 'i', 'b')
    def regions(g, feats, rois, levels, size, scales, sampling_ratio, aligned):
        found, order = [], []
        for i, feat in enumerate(symbolic_helper._unpack_list(feats)):
            each, index = g.op(
                f'{FUNCTION_DOMAIN}::LevelFeatures',
                feat,
                rois,
                levels,
                level_i=i,
                size_i=size,
                scale_f=scales[i],
                sampling_ratio_i=sampling_ratio,
                mode_s=_mode(aligned),
                outputs=2,
            )
            found.append(each)
            order.append(index)
        return g.op('Concat', *found, axis_i=0), g.op('Concat', *order, axis_i=0)

    register_custom_op_symbolic(f'{_NAMESPACE}::select_boxes', select, opset)
    register_custom_op_symbolic(f'{_NAMESPACE}::region_features', regions, opset)
    for name, each in _NATIVE.items():
        register_custom_op_symbolic(f'mmcdnv2::{name}', native(*each), opset)


_TORCHSCRIPT_KINDS = {
    'spec': 'is',
    'eps': 'fs',
    'pool': 'b',
    'new_channels': 'i',
    'out_channels': 'i',
}
