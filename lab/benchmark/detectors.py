"""Measure the latency of detectors, part by part, on a real image."""

import math
import statistics
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from mmdet.models.dense_heads import RTMDetHead
from mmdet.models.detectors import (
    BaseDetector,
    SingleStageDetector,
    TwoStageDetector,
)
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.structures.bbox import bbox2roi
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from mmcdnv2 import ops
from mmcdnv2.builder import TensorMode, build_model, make_inputs
from mmcdnv2.complexity import count_macs, count_params, time_rounds
from mmcdnv2.config import load_config
from mmcdnv2.errors import InputError
from mmcdnv2.export.engines import open_engine
from mmcdnv2.export.pictures import photographs
from mmcdnv2.layers import condense_layers

from .latency import Track, environment_of, pinned
from .networks import drop_unused_stages, randomise
from .runtimes import RUNTIMES

# The parts of a detector's latency, in execution order.
STEPS = ('backbone', 'neck', 'head', 'post-processing')
# Number of class scores of an image above the test's threshold.
CANDIDATES = 300


# Configs by name: ours by file name, MMDetection's as 'mmdet::...'.
DETECTORS: Dict[str, str] = {
    'rtmdet_tiny': 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    **{
        f'rtmdet_{backbone}': f'rtmdet_{backbone}_8xb32-300e_coco'
        for backbone in (
            'cdnv2_a',
            'cdnv2_b',
            'cdnv2_c',
            'sfr_shufflenetv2_1.0x',
            'sfr_shufflenetv2_1.5x',
            'shufflenetv2_1.0x',
            'mobilenetv2',
        )
    },
    'ssdlite_cdnv2_a': 'ssdlite_cdnv2_a_8xb24-600e_coco',
    'gfl_cdnv2_a_pafpn': 'gfl_cdnv2_a_pafpn_8xb32-320-300e_coco',
    **{
        f'{kind}_cdnv2_{arch}{laterals}': f'{kind}_cdnv2_{arch}{laterals}_fpn_1x_coco'
        for kind in ('faster_rcnn', 'retinanet')
        for arch in 'abc'
        for laterals in ('', '_laterals')
    },
}


@dataclass(frozen=True)
class DetectorSettings:
    """Settings of a detector benchmark.

    Attributes:
        models (tuple[str]): Names in :data:`DETECTORS`, or config files. Empty for
            all of :data:`DETECTORS`.
        runtimes (tuple[str]): 'eager', and 'onnxruntime' to also export the
            detectors.
        size (tuple[int]): Height and width of the input in pixels.
        image (str, optional): Image file. Defaults to a photograph from
            scikit-learn.
        threads (int): Number of threads and pinned cores.
        rounds (int): Number of timings of each step.
        baseline (str, optional): Model with ratio 1. Defaults to the first.
        seed (int): Seed of the weights.
    """

    models: Tuple[str, ...] = ()
    runtimes: Tuple[str, ...] = ('eager', 'onnxruntime')
    size: Tuple[int, int] = (640, 640)
    image: Optional[str] = None
    threads: int = 1
    rounds: int = 20
    baseline: Optional[str] = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('threads', 'rounds'):
            if getattr(self, name) < 1:
                raise InputError(f'{name} must be at least 1.')
        if 'eager' not in self.runtimes or {*self.runtimes} - {'eager', 'onnxruntime'}:
            raise InputError(
                "Detectors are timed in 'eager' (part by part) and optionally in "
                f"'onnxruntime' (as a whole), got {', '.join(self.runtimes)}."
            )
        if any(side < 32 or side % 32 for side in self.size):
            raise InputError(
                'Height and width must be multiples of 32, the largest stride of the '
                f'necks, got {self.size[0]} x {self.size[1]}.'
            )


@dataclass
class DetectorRow:
    """Measurements of a detector.

    Attributes:
        name (str): Its name, or its config's.
        ms (float): Median latency of the detector in milliseconds.
        ratio (float): This latency divided by the baseline's.
        exported_ms (float, optional): Median latency of the exported detector in
            ONNX Runtime, with native kernels if PyTorch uses them. None if it
            was not exported.
        exported_ratio (float, optional): This latency divided by the baseline's.
        steps (dict[str, float]): Median latency of each of :data:`STEPS`.
        macs (dict[str, int]): MACs of backbone, neck and head.
        params (int): Parameters of the condensed detector.
        boxes (int): Number of returned boxes.
        times (list[float]): All latencies of the detector.
        exported_times (list[float]): All latencies of the exported detector.
    """

    name: str
    ms: float
    ratio: float
    exported_ms: Optional[float]
    exported_ratio: Optional[float]
    steps: Dict[str, float]
    macs: Dict[str, int]
    params: int
    boxes: int
    times: List[float] = field(repr=False)
    exported_times: List[float] = field(repr=False)


@dataclass
class DetectorReport:
    """Results of a detector benchmark.

    Attributes:
        settings (DetectorSettings): The settings.
        environment (dict[str, str]): Processor, cores and versions.
        rows (list[DetectorRow]): In the order of the settings.
        left_out (dict[str, list[str]]): Detectors that were not exported, by
            reason.
    """

    settings: DetectorSettings
    environment: Dict[str, str]
    rows: List[DetectorRow]
    left_out: Dict[str, List[str]]


@dataclass
class _Prepared:
    """A detector that is ready to run, and its costs."""

    name: str
    whole: Callable[[], Any]
    steps: List[Callable[[], Any]]
    exported: Optional[Callable[[], Any]]
    macs: Dict[str, int]
    params: int
    boxes: int

    def calls(self) -> List[Callable[[], Any]]:
        """Return the functions to time: detector, steps, exported detector."""
        return [self.whole, *self.steps, *filter(None, [self.exported])]


@torch.no_grad()
def measure_detectors(
    settings: DetectorSettings, root: Path, track: Track = lambda steps, text: steps
) -> DetectorReport:
    """Time detectors, as a whole and in parts, in interleaved rounds.

    The weights are random, with the norms' statistics of the image. Class biases
    are set such that :data:`CANDIDATES` scores pass the test's threshold, because
    all random scores would pass and flood the non-maximum suppression.

    Args:
        settings (DetectorSettings): The settings.
        root (Path): Folder with our ``configs``.
        track (Callable): Shows the progress of a loop, as in
            :func:`measure_latency`.

    Returns:
        DetectorReport: The results.

    Raises:
        InputError: If a model or the baseline does not exist, a model is not a
            supported detector, or there are fewer cores than threads.
    """
    names = tuple(dict.fromkeys(settings.models or DETECTORS))
    baseline = settings.baseline or names[0]
    if baseline not in names:
        raise InputError(
            f'The baseline {baseline} is not measured: choose from {", ".join(names)}.'
        )
    configs = [config_of(name, root) for name in names]
    image = settings.image or _photograph()
    left_out: Dict[str, List[str]] = {}
    with pinned(settings.threads) as cores:
        detectors = [
            _prepare(name, cfg, image, settings, left_out)
            for name, cfg in track(list(zip(names, configs)), 'Preparing')
        ]
        calls = [call for d in detectors for call in d.calls()]
        times = time_rounds(calls, track(range(settings.rounds), 'Timing'))
        exported = any(detector.exported for detector in detectors)
        runtimes = ['onnxruntime'] if exported else []
        environment = environment_of(cores, runtimes)
    records = iter(times)
    rows = [
        _row_of(detector, [next(records) for _ in detector.calls()])
        for detector in detectors
    ]
    unit = rows[names.index(baseline)]
    for row in rows:
        row.ratio = row.ms / unit.ms
        if row.exported_ms and unit.exported_ms:
            row.exported_ratio = row.exported_ms / unit.exported_ms
    return DetectorReport(settings, environment, rows, left_out)


def _row_of(detector: _Prepared, times: List[List[float]]) -> DetectorRow:
    """Return a detector's row, with ratios of 1."""
    ms, *others = (statistics.median(record) for record in times)
    steps = dict(zip(STEPS, others))
    exported = times[-1] if detector.exported else []
    return DetectorRow(
        name=detector.name,
        ms=ms,
        ratio=1.0,
        exported_ms=others[-1] if exported else None,
        exported_ratio=1.0 if exported else None,
        steps=steps,
        macs=detector.macs,
        params=detector.params,
        boxes=detector.boxes,
        times=times[0],
        exported_times=exported,
    )


def config_of(name: str, root: Path) -> Any:
    """Return a detector's config.

    Args:
        name (str): One of :data:`DETECTORS`, or a config file.
        root (Path): Folder with our ``configs``.

    Returns:
        Config: The config.

    Raises:
        InputError: If it does not exist.
    """
    if name in DETECTORS:
        config = DETECTORS[name]
        if config.startswith('mmdet::'):
            return get_config(config)
        return load_config(str(root / 'configs' / f'{config}.py'))
    if not name.endswith('.py'):
        raise InputError(
            f'There is no detector {name}: choose from {", ".join(DETECTORS)}, or pass '
            'a config file.'
        )
    return load_config(name)


def _photograph() -> str:
    """Return the path of a photograph in an installed package."""
    found = photographs()
    if not found:
        raise InputError(
            'The default image needs scikit-learn, which is not installed: pass '
            "--image, or pip install 'mmcdnv2[demo]'."
        )
    return found[0]


def build_detector(
    name: str, cfg: Any, image: str, settings: DetectorSettings
) -> Tuple[BaseDetector, Tensor, List[Any]]:
    """Build a detector with random weights that detects boxes in an image.

    Args:
        name (str): Its name, for messages.
        cfg (Config): Its config.
        image (str): Image file.
        settings (DetectorSettings): Size of the input and seed.

    Returns:
        tuple: The detector, condensed and in evaluation mode; the preprocessed
        image, shape (1, 3, H, W); and its data sample.

    Raises:
        InputError: If it is not a supported detector.
    """
    torch.manual_seed(settings.seed)
    # Without pretrained weights, which would be downloaded.
    model = build_model(cfg)
    if not isinstance(model, (SingleStageDetector, TwoStageDetector)):
        raise InputError(
            f'{name} is a {type(model).__name__}; only single-stage and two-stage '
            'detectors can be timed.'
        )
    is_two_stage = isinstance(model, TwoStageDetector)
    _check_parts(name, model)
    # For example the peers' last convolution, which no neck reads.
    drop_unused_stages(model.backbone)
    # SyncBatchNorm cannot run in training mode on a CPU.
    model = revert_sync_batchnorm(model)
    head = model.rpn_head if is_two_stage else model.bbox_head
    # Small initial weights keep the boxes near their anchors.
    for part in (head, model.roi_head.bbox_head) if is_two_stage else (head,):
        for layer in part.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    inputs, samples = make_inputs(model, cfg, image, settings.size)
    # Norms of 1x1 maps need more than one image.
    images = torch.cat([inputs, inputs.flip(3)])
    randomise(model, lambda: head(model.extract_feat(images)))
    condense_layers(model)
    model.eval()
    feats = model.extract_feat(inputs)
    _set_class_biases(model, feats, [sample.metainfo for sample in samples])
    return model, inputs, samples


def _prepare(
    name: str,
    cfg: Any,
    image: str,
    settings: DetectorSettings,
    left_out: Dict[str, List[str]],
) -> _Prepared:
    """Build a condensed detector and the functions of its parts."""
    model, inputs, samples = build_detector(name, cfg, image, settings)
    metas = [sample.metainfo for sample in samples]
    neck = model.neck if model.with_neck else nn.Identity()
    maps = model.backbone(inputs)
    feats = neck(maps)

    def whole() -> Any:
        return model.predict(inputs, samples, rescale=False)

    return _Prepared(
        Path(name).stem if name.endswith('.py') else name,
        whole,
        [
            partial(model.backbone, inputs),
            partial(neck, maps),
            *_head_steps(model, feats, metas),
        ],
        _export(name, model, inputs, settings, left_out),
        _count(model, inputs, samples),
        count_params(model),
        boxes=len(whole()[0].pred_instances),
    )


def _export(
    name: str,
    model: BaseDetector,
    inputs: Tensor,
    settings: DetectorSettings,
    left_out: Dict[str, List[str]],
) -> Optional[Callable[[], Any]]:
    """Export a detector to ONNX Runtime, if requested and possible."""
    if 'onnxruntime' not in settings.runtimes:
        return None
    if not all(map(find_spec, RUNTIMES['onnxruntime'].packages)):
        reason = "onnxruntime or onnxscript is missing: pip install 'mmcdnv2[export]'"
        left_out.setdefault(reason, []).append(name)
        return None
    from mmcdnv2.export.detectors import exportable
    from mmcdnv2.export.tracing import trace

    try:
        network = exportable(model)
    except InputError as error:
        left_out.setdefault(str(error), []).append(name)
        return None
    images = dict(x=inputs, size=torch.tensor(inputs.shape[2:], dtype=torch.float32))
    found, _ = network.predict(**images)
    is_native = ops.load()
    graph = trace(network, images, list(found), native=is_native)
    run = open_engine(
        graph.SerializeToString(), 'onnxruntime', settings.threads, is_native
    )
    given = {each.name for each in graph.graph.input}
    return partial(run, {k: v.numpy() for k, v in images.items() if k in given})


def _check_parts(name: str, model: BaseDetector) -> None:
    """Check that a detector consists of the timed parts."""
    if isinstance(model, TwoStageDetector):
        roi = model.roi_head
        known = isinstance(roi.bbox_head, BBoxHead) and not roi.with_mask
        test_cfg = roi.test_cfg
    else:
        head = model.bbox_head
        known = hasattr(head, 'use_sigmoid_cls') and hasattr(head, 'loss_cls')
        test_cfg = head.test_cfg
    if not known or not 0 < (test_cfg or {}).get('score_thr', 0) < 1:
        raise InputError(
            f'{name} cannot be timed part by part: only detectors without masks whose '
            'heads predict class scores of boxes and have a score_thr above 0 can.'
        )


def _set_class_biases(
    model: BaseDetector, feats: Sequence[Tensor], metas: List[dict]
) -> None:
    """Set biases such that :data:`CANDIDATES` scores pass the test's threshold."""
    if isinstance(model, TwoStageDetector):
        roi = model.roi_head
        rois = _rois_of(model, feats, metas)
        head, threshold = roi.bbox_head, roi.test_cfg.score_thr
        is_sigmoid, channels = False, head.num_classes + 1
        run = partial(roi._bbox_forward, feats, rois)
    else:
        head, threshold = model.bbox_head, model.bbox_head.test_cfg.score_thr
        is_sigmoid, channels = head.use_sigmoid_cls, head.cls_out_channels
        run = partial(head, feats)
    if isinstance(head, RTMDetHead):
        # Boxes of four strides; half of the random distances would be negative.
        for module in head.rtm_reg.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.constant_(module.bias, 2)
    layers = [m for m in head.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    outputs: List[Tuple[nn.Module, Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda m, _, out: outputs.append((m, out)))
        for layer in layers
    ]
    result = run()
    for handle in handles:
        handle.remove()
    scores = [result['cls_score']] if isinstance(result, dict) else list(result[0])
    logits = torch.cat(
        [
            s.flatten(2).transpose(1, 2).reshape(-1, channels) if s.dim() == 4 else s
            for s in scores
        ]
    )
    # Scaled like a trained head's logits, so that the classes differ.
    scale = 2 / logits.std()
    logits *= scale
    # Margins: the shift of the logits, or the background's, that a score needs to pass.
    if is_sigmoid:
        margins = math.log(threshold / (1 - threshold)) - logits
        shift = margins.flatten().kthvalue(min(CANDIDATES, margins.numel())).values
    else:
        unnormalised = logits[:, :-1].exp()
        rest = unnormalised / threshold - unnormalised.sum(1, keepdim=True)
        margins = rest.clamp(min=1e-30).log() - logits[:, -1:]
        number = margins.numel()
        shift = margins.flatten().kthvalue(max(1, number - CANDIDATES)).values
    for layer in {module for module, out in outputs if any(out is s for s in scores)}:
        layer.weight.mul_(scale)
        layer.bias.mul_(scale)
        biases = layer.bias.view(-1, channels)
        (biases if is_sigmoid else biases[:, -1]).add_(shift)


def _count(model: BaseDetector, inputs: Tensor, samples: list) -> Dict[str, int]:
    """Count the MACs of each part."""
    whole = count_macs(TensorMode(model, samples), inputs)
    backbone = count_macs(model.backbone, inputs)
    neck = count_macs(model.neck, model.backbone(inputs)) if model.with_neck else 0
    return dict(backbone=backbone, neck=neck, head=whole - backbone - neck)


def _head_steps(
    model: BaseDetector, feats: Sequence[Tensor], metas: List[dict]
) -> List[Callable[[], Any]]:
    """Return functions that run the heads and the post-processing."""
    if isinstance(model, SingleStageDetector):
        head = model.bbox_head
        outputs = head(feats)
        select = partial(head.predict_by_feat, *outputs, batch_img_metas=metas)
        return [partial(head, feats), partial(select, rescale=False)]
    rpn, roi = model.rpn_head, model.roi_head
    propose = partial(rpn.predict_by_feat, *rpn(feats), batch_img_metas=metas)
    rois = _rois_of(model, feats, metas)

    def heads() -> Any:
        rpn(feats)
        return roi._bbox_forward(feats, rois)

    found = roi._bbox_forward(feats, rois)

    def post_processing() -> Any:
        propose(rescale=False)
        return roi.bbox_head.predict_by_feat(
            rois=(rois,),
            cls_scores=(found['cls_score'],),
            bbox_preds=(found['bbox_pred'],),
            batch_img_metas=metas,
            rcnn_test_cfg=roi.test_cfg,
            rescale=False,
        )

    return [heads, post_processing]


def _rois_of(
    model: TwoStageDetector, feats: Sequence[Tensor], metas: List[dict]
) -> Tensor:
    """Return the RPN's proposals."""
    rpn = model.rpn_head
    proposals = rpn.predict_by_feat(*rpn(feats), batch_img_metas=metas, rescale=False)
    return bbox2roi([proposals[0].bboxes])
