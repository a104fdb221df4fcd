"""Export a trained checkpoint: the work behind tools/export.py."""

import copy
import hashlib
import logging
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmpretrain.models import BaseClassifier
from torch import Tensor, nn

from ..builder import build_model, prepare
from ..checkpoint import check_finite, load_checkpoint, load_weights, weights_of
from ..class_names import class_names, number_of_classes
from ..complexity import time_rounds
from ..config import load_config
from ..deploy.condense import check_finished
from ..errors import InputError
from ..files import check_writable, replace_when_done
from ..layers import condense_layers
from .comparison import (
    SCORE_TOLERANCE,
    TOLERANCE,
    Boxes,
    relative_difference,
    unmatched,
)
from .detectors import ExportableDetector
from .detectors import exportable as exportable_detector
from .engines import ENGINES, Run, check_packages, open_engine
from .exported_models import to_instances
from .networks import Backbone, Classifier, Exportable
from .pictures import Picture, check_steps, load_pictures, test_images, usual_size
from .pipeline import Steps, channel_order_of, fixed_size, steps_of

OPERATORS = ('native', 'standard')
PARTS = ('model', 'backbone')
DTYPES = ('uint8', 'float32')
DIMENSIONS = ('batch', 'height', 'width')
# Of the coarsest map. Only of its multiples can PyTorch tell that maps fit each other.
STRIDE = 32
# Largest difference of boxes whose features are compared, relative to the image.
SAME_BOX = 1e-5
# Largest difference of what is predicted from these features, in the middle of all.
SAMPLED_TOLERANCE = 1e-2


@dataclass
class ExportReport:
    """Result of an export.

    Attributes:
        path (Path): The written file.
        task (str): 'classification', 'detection' or 'features'.
        operators (str): 'native' or 'standard'.
        engine (str): What ran the file to compare it.
        size (tuple[int]): Height and width of the input in pixels.
        dynamic (tuple[str]): Dimensions that may be others.
        megabytes (float): Size of the file.
        images (list[str]): What was compared on.
        difference (float): Largest difference of an output of the network from
            PyTorch's, relative to that output's largest value.
        part (str): The output that it was in.
        boxes (int): Boxes that were matched, of a detector.
        latency (tuple[float]): Milliseconds for one image, one thread, in PyTorch
            and in the engine.
    """

    path: Path
    task: str
    operators: str
    engine: str
    size: Tuple[int, int]
    dynamic: Tuple[str, ...]
    megabytes: float
    images: List[str]
    difference: float
    part: str
    boxes: int
    latency: Tuple[float, float]


def export_checkpoint(
    config: str,
    checkpoint: str,
    out: Union[str, Path],
    *,
    operators: str = 'native',
    gather: bool = True,
    engine: str = 'onnxruntime',
    part: str = 'model',
    raw: bool = False,
    dtype: str = 'uint8',
    input_shape: Optional[Tuple[int, int]] = None,
    dynamic: Optional[Sequence[str]] = None,
    images: Sequence[str] = (),
    trust: bool = False,
    cfg_options: Optional[Dict] = None,
) -> ExportReport:
    """Export a classifier, a detector or a backbone to ONNX, and prove it.

    A sparse checkpoint is condensed on the way. The file is run in its engine on
    images and compared with the network in PyTorch; it is kept only if its outputs
    are equal.

    Args:
        config (str): Config file.
        checkpoint (str): Its checkpoint, sparse with the sparsification finished,
            or condensed, or of a network that has no sparse layers.
        out (str | Path): The file to write.
        operators (str): 'native', which needs ONNX Runtime and our library, or
            'standard', for other engines. Defaults to 'native'.
        gather (bool): Whether standard operators may copy channels by an index,
            which ncnn cannot. Defaults to True.
        engine (str): What runs the file to compare it, 'onnxruntime' or
            'openvino'. Defaults to 'onnxruntime'.
        part (str): 'model' or 'backbone'. Defaults to 'model'.
        raw (bool): Whether the heads' outputs are returned, without probabilities
            or box selection. Defaults to False.
        dtype (str): Type of the input, 'uint8' or 'float32'. Defaults to 'uint8'.
        input_shape (tuple[int], optional): Height and width of the input. Defaults
            to the size of the config's test data.
        dynamic (Sequence[str], optional): Which of 'batch', 'height' and 'width'
            may be others. Defaults to the batch, and to all where the test
            pipeline leaves the size to the image.
        images (Sequence[str]): Image files to compare on. Defaults to three of the
            config's test data, or what photographs there are.
        trust (bool): Whether the checkpoint may hold more than tensors.
        cfg_options (dict, optional): Settings of the config to override.

    Returns:
        ExportReport: What it came to.

    Raises:
        InputError: If an input cannot be used, a part cannot be exported, or the
            outputs differ. Nothing is written then.
    """
    _check_choices(
        operators=operators, engine=engine, part=part, dtype=dtype, dynamic=dynamic
    )
    check_packages('onnx', 'onnxscript', engine)
    # They need the packages.
    from .metadata import Input, Metadata, write_model
    from .preparation import Preparation
    from .tracing import trace

    if input_shape is not None and min(input_shape) < STRIDE:
        raise InputError(
            f'The input must be at least {STRIDE} pixels high and wide, got '
            f'{input_shape[0]} x {input_shape[1]}.'
        )
    out = Path(out)
    if out.suffix != '.onnx':
        raise InputError(f'The file to write must end with .onnx, got {out}.')
    check_writable(out)
    cfg = load_config(config, cfg_options)
    content = load_checkpoint(checkpoint, trust)
    model = _condensed(cfg, content, checkpoint)
    weights = _checksum_of(model)
    network, task = _exportable(model, part)
    check_finite(model.state_dict(), checkpoint)

    init_default_scope(cfg.get('default_scope', 'mmengine'))
    preparation = Preparation.of(model.data_preprocessor)
    images = list(images) or test_images(cfg)
    if part == 'backbone' and not cfg.get('test_dataloader'):
        steps: Steps = []
        channel_order = 'BGR'
        print_log(
            f'{config} has no test data, so the file does not say how images are '
            'prepared.',
            logger='current',
            level=logging.WARNING,
        )
    else:
        steps, channel_order = steps_of(cfg), channel_order_of(cfg)
        check_steps(cfg, steps, images)
    if isinstance(network, ExportableDetector):
        _check_box_size(model, steps)
    steps = _fitted(steps, input_shape)
    size = input_shape or fixed_size(steps) or usual_size(cfg, steps, images)
    dynamic = _open_dimensions(dynamic, steps, task)
    if {'height', 'width'} <= set(dynamic):
        if task == 'detection' and preparation.divisor % STRIDE:
            raise InputError(
                f'A detector with an open height and width must pad them to multiples '
                f'of {STRIDE}: set pad_size_divisor={STRIDE} in its data preprocessor, '
                'or leave height and width out of dynamic.'
            )
    else:
        steps = _ending_at(steps, size, preparation.grey_levels())
    pictures = load_pictures(cfg, steps, images, size, dynamic, channel_order)

    inputs = _prepared(model, pictures[0], task)
    references = [_reference(model, network, each, task) for each in pictures]
    found, heads = references[0].found, references[0].heads
    print_log(f'Exporting {task} of {size[0]} x {size[1]} pixels to {out}.')
    open_axes = {
        axis: (name, 1 if name == 'batch' else STRIDE)
        for axis, name in ((0, 'batch'), (2, 'height'), (3, 'width'))
        if name in dynamic
    }
    inputs['x'] = _example(inputs['x'], dynamic)
    is_native = operators == 'native'
    outputs = [*found, *heads]
    graph = trace(network, inputs, outputs, {'x': open_axes}, is_native, gather)
    preparation.prepend(graph, size, dtype, dynamic)
    classes: Tuple[str, ...] = ()
    if task != 'features':
        classes = class_names(cfg, content, number_of_classes(model))
    metadata = Metadata(
        task=task,
        raw=raw,
        operators=operators,
        config=Path(config).name,
        weights_sha256=weights,
        classes=classes,
        input=Input(dtype, 'NCHW', channel_order, size, dynamic),
        preprocess=steps,
        mask_threshold=network.mask_threshold,
    )
    print_log(f'Comparing with PyTorch, in {engine}.')
    kept = list(heads if raw and heads else found)
    # First with the heads' outputs too, which show more than boxes; without them the
    # engine may fuse more. Of raw outputs no boxes are made.
    results = []
    with replace_when_done(out) as path:
        for names in [kept] if raw else [outputs, kept]:
            write_model(_with_outputs(graph, names), metadata, path)
            run = open_engine(path, engine, 1, is_native)
            results.append(_compare(network, references, run, dtype))
        if 'batch' in dynamic:
            _compare_batch(run, pictures[0], dtype)
        latency = _latency(model, network, run, pictures[0], task, dtype)
        megabytes = path.stat().st_size / 1e6
    difference, output, boxes = results[0]
    if task == 'detection' and not raw and not boxes:
        print_log(
            'Neither PyTorch nor the file found an object, so only the heads were '
            'compared: choose images with objects.',
            logger='current',
            level=logging.WARNING,
        )
    return ExportReport(
        path=out,
        task=task,
        operators=operators,
        engine=engine,
        size=size,
        dynamic=dynamic,
        megabytes=megabytes,
        images=[each.source for each in pictures],
        difference=difference,
        part=output,
        boxes=boxes,
        latency=latency,
    )


def _check_choices(
    dynamic: Optional[Sequence[str]], operators: str, engine: str, **others: str
) -> None:
    """Refuse a word that is none of those that there are."""
    given = dict(others, operators=operators, engine=engine)
    choices = dict(operators=OPERATORS, engine=ENGINES, part=PARTS, dtype=DTYPES)
    for name, value in given.items():
        if value not in choices[name]:
            raise InputError(
                f'{name} must be {" or ".join(choices[name])}, got {value}.'
            )
    unknown = sorted(set(dynamic or ()) - set(DIMENSIONS))
    if unknown:
        raise InputError(
            f'dynamic takes {", ".join(DIMENSIONS)}, got {", ".join(unknown)}.'
        )
    if operators == 'native' and engine != 'onnxruntime':
        raise InputError(
            f'{engine} does not know the native operators: choose operators=standard.'
        )


def _condensed(cfg: Config, content: Dict, checkpoint: str) -> nn.Module:
    """Build a config's model, load its weights and condense it."""
    model = build_model(cfg)
    load_weights(model, weights_of(content), checkpoint)
    check_finished(model, checkpoint)
    condense_layers(model)
    model = revert_sync_batchnorm(model)
    model.eval()
    return model


def _checksum_of(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _exportable(model: nn.Module, part: str) -> Tuple[Exportable, str]:
    """Return a model as a function with outputs of fixed size, and its task."""
    if part == 'backbone':
        return Backbone(model.backbone), 'features'
    if isinstance(model, BaseDetector):
        return exportable_detector(model), 'detection'
    if isinstance(model, BaseClassifier):
        return Classifier(model), 'classification'
    raise InputError(
        f'{type(model).__name__} cannot be exported; what can is a classifier or a '
        'detector, or the backbone alone of any model (part=backbone).'
    )


def _check_box_size(model: BaseDetector, steps: Steps) -> None:
    """Reject a smallest size of boxes that is one of the image before resizing.

    A region proposal network has that of the resized image.
    """
    least = model.test_cfg.get('min_bbox_size', -1)
    if least > 0 and any(step['op'] == 'resize' for step in steps):
        raise InputError(
            f'The setting test_cfg.min_bbox_size={least} cannot be exported where the '
            'test pipeline resizes, since MMDetection applies it to the boxes in the '
            'original image: set it to 0.'
        )


def _fitted(steps: Steps, size: Optional[Tuple[int, int]]) -> Steps:
    """Let the steps lead to the size that was asked for, if one was."""
    fitted = copy.deepcopy(steps)
    if size is None:
        return fitted
    crops = [step['size'] for step in steps if step['op'] == 'crop']
    for step in fitted:
        if step.get('mode') == 'short_side' and crops:
            # As much of the image is to be seen.
            step['size'] = round(step['size'] * min(size) / min(crops[0]))
        elif step.get('mode') == 'fit':
            step.update(long=max(size), short=min(size))
        elif step.get('mode') != 'short_side':
            step['size'] = size
    return fitted


def _ending_at(steps: Steps, size: Tuple[int, int], padding: List[int]) -> Steps:
    """Let the steps end at one size, whatever the image's is."""
    keeps_ratio = any(step.get('mode') == 'fit' for step in steps)
    if keeps_ratio and size[0] != size[1]:
        raise InputError(
            'Images that are upright do not fit where others do: for a test pipeline '
            'that keeps the ratio, choose a square input shape, or let height and '
            'width be dynamic.'
        )
    if not steps or fixed_size(steps):
        return steps
    return [*steps, dict(op='pad', size=size, value=padding)]


def _open_dimensions(
    asked: Optional[Sequence[str]], steps: Steps, task: str
) -> Tuple[str, ...]:
    """Return the dimensions that may change, as far as PyTorch can export them."""
    from .tracing import has_dynamo_exporter

    if has_dynamo_exporter():
        possible: Tuple[str, ...] = DIMENSIONS
    else:
        # The older exporter takes a detector's batch for a constant on the way.
        possible = () if task == 'detection' else ('batch',)
    if asked is None:
        is_fixed = fixed_size(steps) is not None
        return tuple(each for each in possible if each == 'batch' or not is_fixed)
    beyond = [each for each in asked if each not in possible]
    if beyond:
        raise InputError(
            f'PyTorch {torch.__version__} cannot export an open {" and ".join(beyond)} '
            'here: leave it out of dynamic, or use PyTorch 2.6 or later.'
        )
    return tuple(asked)


def _prepared(model: nn.Module, picture: Picture, task: str) -> Dict[str, Tensor]:
    """Prepare an image: what the network takes."""
    inputs = dict(x=prepare(model, picture.pixels)[0])
    if task == 'detection':
        inputs['size'] = torch.tensor(picture.size, dtype=torch.float32)
    return inputs


def _example(x: Tensor, dynamic: Sequence[str]) -> Tensor:
    """Change an input such that no open dimension is taken for a constant."""
    if 'height' in dynamic or 'width' in dynamic:
        # A side of one stride would be.
        sides = [max(2, -(-side // STRIDE)) * STRIDE for side in x.shape[2:]]
        x = nn.functional.pad(x, (0, sides[1] - x.size(3), 0, sides[0] - x.size(2)))
    return x.repeat(2, 1, 1, 1) if 'batch' in dynamic else x


@dataclass(frozen=True)
class _Reference:
    """What PyTorch gives for an image.

    Attributes:
        picture (Picture): The image.
        found (dict): The results by their names, of fixed size.
        heads (dict): What the heads returned on the way.
        boxes (Boxes, optional): What MMDetection's own detector finds.
    """

    picture: Picture
    found: Dict[str, np.ndarray]
    heads: Dict[str, np.ndarray]
    boxes: Optional[Boxes] = None


@torch.no_grad()
def _reference(
    model: nn.Module, network: Exportable, picture: Picture, task: str
) -> _Reference:
    """Run PyTorch on an image."""
    found, heads = (
        {name: value.numpy() for name, value in outputs.items()}
        for outputs in network.predict(**_prepared(model, picture, task))
    )
    if task != 'detection':
        return _Reference(picture, found, heads)
    inputs, samples = prepare(model, picture.pixels, **picture.meta)
    # In pixels of the original image, as they are evaluated.
    own = model.predict(inputs, samples)[0].pred_instances
    return _Reference(picture, found, heads, Boxes(own.bboxes, own.scores, own.labels))


def _compare(
    network: Exportable,
    references: Sequence[_Reference],
    run: Run,
    dtype: str,
) -> Tuple[float, str, int]:
    """Compare a file with PyTorch.

    Returns the largest difference, the output that it is in, and how many boxes
    were matched.
    """
    worst, boxes = (0.0, ''), 0
    for reference in references:
        picture = reference.picture
        actual = run(dict(images=picture.pixels[None].astype(dtype)))
        expected = {**reference.found, **reference.heads}
        is_detector = reference.boxes is not None
        pairs = {
            name: (actual[name], expected[name])
            # Boxes are in no order where scores are equal.
            for name in (reference.heads if is_detector else expected)
            if name in actual and name not in (*network.by_proposal, 'proposals')
        }
        for name, pair in pairs.items():
            worst = max(worst, (relative_difference(*pair), name))
        if worst[0] > TOLERANCE:
            raise _difference_error(*worst, TOLERANCE, picture)
        # What is sampled of a box differs by more than the box does.
        sampled = dict.fromkeys(network.by_proposal, 'proposals')
        for name, source in dict(sampled, masks='boxes').items():
            if name in actual and source in actual:
                rows = _equal_rows(actual[source], expected[source], picture)
                if name == 'masks':
                    # One box may be found for several classes, in any order.
                    rows &= actual['labels'][0] == expected['labels'][0]
                # A rounding may change how many samples are taken of a few boxes.
                differences = [
                    relative_difference(actual[name][0][i], expected[name][0][i])
                    for i in rows.nonzero()[0]
                ]
                difference = statistics.median(differences or [0.0])
                if difference > SAMPLED_TOLERANCE:
                    raise _difference_error(
                        difference, name, SAMPLED_TOLERANCE, picture
                    )
        if reference.boxes is not None and 'boxes' in actual:
            assert isinstance(network, ExportableDetector)
            boxes += _compare_boxes(network, actual, reference.boxes, picture)
    return (*worst, boxes)


def _difference_error(
    difference: float, name: str, tolerance: float, picture: Picture
) -> InputError:
    return InputError(
        f'The exported file differs from PyTorch by {difference:.1e} in {name} on '
        f'{picture.source}, more than {tolerance:.0e}, so nothing was written. This is '
        'a bug of mmcdnv2 or of the engine, please report it.'
    )


def _equal_rows(
    actual: np.ndarray, expected: np.ndarray, picture: Picture
) -> np.ndarray:
    """Places where both sides have the same box, as a rounding may swap two."""
    distance = np.abs(actual[0] - expected[0]).max(1)
    return distance <= SAME_BOX * max(picture.size)


def _compare_batch(run: Run, picture: Picture, dtype: str) -> None:
    """Compare an image alone with the same one in a batch."""
    images = picture.pixels[None].astype(dtype)
    alone, both = run(dict(images=images)), run(dict(images=images.repeat(2, 0)))
    for name, value in alone.items():
        for row in both[name]:
            difference = relative_difference(row, value[0])
            if difference > TOLERANCE:
                raise InputError(
                    f'The exported file gives other {name} in a batch, by '
                    f'{difference:.1e}, so nothing was written: export it without an '
                    'open batch, and please report it.'
                )


def _compare_boxes(
    network: ExportableDetector, actual: Dict, theirs: Boxes, picture: Picture
) -> int:
    """Compare a file's boxes with MMDetection's own; return their number."""
    size = picture.meta.get('ori_shape', picture.size)[:2]
    found = to_instances(
        {name: actual[name][0] for name in actual if name != 'masks'},
        size,
        picture.meta.get('scale_factor', (1.0, 1.0)),
    )
    ours = Boxes(found.bboxes, found.scores, found.labels)
    differences = unmatched(ours, theirs, size, *network.selection)
    if differences:
        raise InputError(
            f'The exported file finds other boxes than PyTorch on {picture.source}, '
            f'{len(differences)} of {len(theirs.scores)}, so nothing was written: '
            f'{differences[0]} (scores within {SCORE_TOLERANCE:.0e}). This is a bug of '
            'mmcdnv2 or of the engine, please report it.'
        )
    return len(found)


@torch.no_grad()
def _latency(
    model: nn.Module,
    network: Exportable,
    run: Run,
    picture: Picture,
    task: str,
    dtype: str,
) -> Tuple[float, float]:
    """Time PyTorch and the engine in turns, each with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images = dict(images=picture.pixels[None].astype(dtype))

    def in_pytorch() -> Any:
        inputs, samples = prepare(model, picture.pixels)
        if task == 'detection':
            return model.predict(inputs, samples, rescale=False)
        return network(inputs)

    try:
        times = time_rounds([in_pytorch, partial(run, images)], range(10))
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[0]), statistics.median(times[1])


def _with_outputs(graph: Any, names: Sequence[str]) -> Any:
    """Return a copy of a graph with some of its outputs, and what they need."""
    from onnxscript.optimizer import remove_unused_nodes

    copied = type(graph)()
    copied.CopyFrom(graph)
    kept = [each for each in copied.graph.output if each.name in names]
    del copied.graph.output[:]
    copied.graph.output.extend(kept)
    remove_unused_nodes(copied)
    return copied
