"""Small exported files, made by hand: what they return can be told by heart.

A score is the mean of one of the input's channels, so it shows their order, the padding
and which image of a batch it is of.
"""

import onnx.parser

from mmcdnv2.export.metadata import Input, Metadata, write_model

OPSET = 'ir_version: 8, opset_import: ["" : 17]'
BOXES = ((10.0, 20, 30, 60), (-5, 0, 50, 48), (0, 0, 0, 0))


def classifier(path, sharpness=0.05, **metadata):
    """Three classes, the softmax of the channels' means times a factor."""
    graph = f"""
        <{OPSET}>
        small (IMAGES) => (float[N, 3] scores) {{
            pixels = Cast<to=1>(images)
            means = ReduceMean<axes=[2, 3], keepdims=0>(pixels)
            factor = Constant<value_float={sharpness}>()
            logits = Mul(means, factor)
            scores = Softmax<axis=1>(logits)
        }}"""
    return _write(path, graph, **{'task': 'classification', **metadata})


def detector(path, boxes=BOXES, count=2, masks=False, **metadata):
    """Boxes that are always the same; the scores are the channels' means over 255.

    The mask of a box covers its left half.
    """
    flat = ', '.join(str(float(side)) for box in boxes for side in box)
    half = ', '.join((['1.0'] * 14 + ['0.0'] * 14) * 28)
    outputs = 'float[N, 3, 4] boxes, float[N, 3] scores, int64[N, 3] labels, '
    outputs += 'int64[N] counts' + (', float[N, 3, 28, 28] masks' if masks else '')
    mask = f"""
        half = Constant<value = float[28, 28] {{{half}}}>()
        mask_size = Constant<value_ints=[3, 28, 28]>()
        mask_shape = Concat<axis=0>(number, mask_size)
        masks = Expand(half, mask_shape)"""
    graph = f"""
        <{OPSET}>
        small (IMAGES) => ({outputs}) {{
            pixels = Cast<to=1>(images)
            means = ReduceMean<axes=[2, 3], keepdims=0>(pixels)
            most = Constant<value_float=255.0>()
            scores = Div(means, most)
            number = Shape<start=0, end=1>(images)
            corners = Constant<value = float[3, 4] {{{flat}}}>()
            box_size = Constant<value_ints=[3, 4]>()
            box_shape = Concat<axis=0>(number, box_size)
            boxes = Expand(corners, box_shape)
            kinds = Constant<value = int64[3] {{2, 0, -1}}>()
            label_size = Constant<value_ints=[3]>()
            label_shape = Concat<axis=0>(number, label_size)
            labels = Expand(kinds, label_shape)
            valid = Constant<value_int={count}>()
            counts = Expand(valid, number)
            {mask if masks else ''}
        }}"""
    return _write(path, graph, **{'task': 'detection', **metadata})


def _write(
    path,
    graph,
    task,
    size=(48, 64),
    dtype='uint8',
    channel_order='BGR',
    dynamic=('batch', 'height', 'width'),
    preprocess=(),
    classes=('a', 'b', 'c'),
    raw=False,
    layout='NCHW',
    mask_threshold=0.5,
):
    sides = zip(('batch', 'height', 'width'), (1, *size))
    dims = [name if name in dynamic else side for name, side in sides]
    kind = dict(uint8='uint8', float32='float')[dtype]
    images = f'{kind}[{dims[0]}, 3, {dims[1]}, {dims[2]}] images'
    model = onnx.parser.parse_model(graph.replace('IMAGES', images))
    metadata = Metadata(
        task=task,
        raw=raw,
        operators='standard',
        config='small.py',
        weights_sha256='0' * 64,
        classes=tuple(classes),
        input=Input(dtype, layout, channel_order, tuple(size), tuple(dynamic)),
        preprocess=list(preprocess),
        mask_threshold=mask_threshold,
    )
    write_model(model, metadata, path)
    return str(path)
