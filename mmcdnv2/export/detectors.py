"""Detectors as functions of a prepared image, with results of fixed size.

MMDetection selects boxes by their number, which no tracer follows. Here the same is
done with tensors of fixed size; ``export.py`` compares the results of both.
"""

import math
from typing import Any, Dict, Iterable, NamedTuple, Optional, Sequence, Tuple

import torch
from mmdet.models import dense_heads, roi_heads
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from torch import Tensor, nn

from ..errors import InputError
from .networks import Exportable, Outputs
from .operators import region_features, select_boxes

# With more candidates of a level than these, selecting them costs more than it saves:
# all that pass the threshold are compared instead.
MAX_CANDIDATES = 5000

# What an operator's result has at places that hold no box.
NOTHING = -math.inf

# What MMDetection reads of `test_cfg`, all of which is exported, by its part.
_TEST_KEYS = {
    'test_cfg': ('nms_pre', 'min_bbox_size', 'score_thr', 'nms', 'max_per_img'),
    'test_cfg.rpn': ('nms_pre', 'min_bbox_size', 'nms', 'max_per_img'),
    'test_cfg.rcnn': ('score_thr', 'nms', 'max_per_img', 'mask_thr_binary'),
}
# The same of `nms`. Only speed depends on split_thr.
_NMS_KEYS = (
    'type',
    'iou_threshold',
    'score_threshold',
    'max_num',
    'split_thr',
    'class_agnostic',
    'offset',
)


class Selection(NamedTuple):
    """Which boxes are kept.

    Attributes:
        iou_threshold (float): Overlap from which a box is suppressed.
        score_threshold (float): Scores must be above it.
        number (int): How many boxes of an image, at most.
        min_bbox_size (float): Both sides must be above it, in pixels.
    """

    iou_threshold: float
    score_threshold: float
    number: int
    min_bbox_size: float

    @classmethod
    def of(cls, cfg: Any) -> 'Selection':
        """Read a part of ``test_cfg``."""
        nms = cfg.nms
        most = nms.get('max_num', -1)
        return cls(
            nms.iou_threshold,
            max(cfg.get('score_thr', 0), nms.get('score_threshold', 0)),
            min(cfg.max_per_img, most) if most > 0 else cfg.max_per_img,
            cfg.get('min_bbox_size', -1),
        )


class Candidates(NamedTuple):
    """Boxes that may be returned.

    Attributes:
        boxes (Tensor): Shape (N, B, 4), corners in pixels.
        scores (Tensor): Shape (N, C, B). Not all need to be likelihoods, but a
            larger one must be the better.
        labels (Tensor, optional): Shape (N, B), where C is 1: the class of each
            box, or what else its overlaps are limited to.
    """

    boxes: Tensor
    scores: Tensor
    labels: Any = None


def _clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Clip boxes (..., 4) to an image of ``size`` (height, width)."""
    limit = torch.stack((size[1], size[0], size[1], size[0]))
    return torch.minimum(boxes.clamp(min=0), limit)


def _decoded(coder: nn.Module, priors: Tensor, deltas: Tensor, size: Tensor) -> Tensor:
    """Decode (N, B, 4) deltas on (N, B, 4) or (N, B, 2) priors."""
    number = deltas.size(1)
    boxes = coder.decode(
        priors.reshape(-1, priors.size(-1)), deltas.reshape(-1, deltas.size(-1))
    ).reshape(-1, number, 4)
    return _clipped(boxes, size) if coder.clip_border else boxes


def _divided(index: Tensor, number: Any) -> Tuple[Tensor, Tensor]:
    """Quotient and remainder; the number may be one that a trace leaves open."""
    # As a number it could not be exported.
    divisor = torch.full((1,), number, dtype=torch.long)
    return index // divisor, index % divisor


def _without_small(candidates: Candidates, least: float) -> Candidates:
    """Set the scores of boxes below ``min_bbox_size`` to minus infinity."""
    if least < 0:
        return candidates
    boxes = candidates.boxes
    fits = (boxes[..., 2] - boxes[..., 0] > least) & (
        boxes[..., 3] - boxes[..., 1] > least
    )
    scores = candidates.scores.masked_fill(~fits[:, None], NOTHING)
    return candidates._replace(scores=scores)


def _suppressed(
    candidates: Candidates, selection: Selection
) -> Tuple[Tensor, Tensor, Tensor]:
    """Suppress what overlaps; return boxes, scores and labels of fixed number."""
    boxes, scores, labels = candidates
    apart = boxes
    if labels is not None:
        # Boxes of different labels do not meet.
        width = boxes.flatten(1).amax(1)[:, None, None] + 1
        apart = boxes + labels[..., None] * width
    index, values = select_boxes(apart, scores, *selection[:3])
    chosen, place = _divided(index, boxes.size(1))
    if labels is not None:
        chosen = labels.expand(index.size(0), -1).gather(1, place)
    found = boxes.gather(1, place[..., None].expand(-1, -1, 4))
    return found, values, chosen


class DenseDecoder(nn.Module):
    """What a dense head makes of its maps, as ``predict_by_feat`` does.

    Args:
        head (BaseDenseHead): The head.
        cfg (Config): Its settings for tests.
        per_level (bool): Whether overlaps count within a level alone and all
            levels have their candidates selected, as an RPN's.
    """

    def __init__(self, head: BaseDenseHead, cfg: Any, per_level: bool = False) -> None:
        super().__init__()
        self.head = head
        self.cfg = cfg
        self.selection = Selection.of(cfg)
        self.per_level = per_level
        self.is_gfl = isinstance(head, dense_heads.GFLHead)
        self.is_sigmoid = head.use_sigmoid_cls
        self.classes = head.cls_out_channels - (0 if self.is_sigmoid else 1)

    def forward(
        self, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor], size: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Select boxes.

        Args:
            cls_scores (Sequence[Tensor]): Shapes (N, A * C, H_i, W_i).
            bbox_preds (Sequence[Tensor]): Shapes (N, A * D, H_i, W_i).
            size (Tensor): Height and width of the image without padding.

        Returns:
            tuple[Tensor]: Boxes (N, K, 4), likelihoods (N, K), zero behind the
            last box, and labels (N, K).
        """
        priors = self.head.prior_generator.grid_priors(
            [score.shape[-2:] for score in cls_scores], device=cls_scores[0].device
        )
        strides = self.head.prior_generator.strides
        select = self.per_level or 0 < self.cfg.get('nms_pre', -1) <= MAX_CANDIDATES
        parts = [
            self._level(*each, size, select)
            for each in zip(cls_scores, bbox_preds, priors, strides)
        ]
        labels = None
        if self.per_level:
            labels = torch.cat(
                [torch.full_like(p.scores[:, 0], i) for i, p in enumerate(parts)], 1
            ).long()
        elif select:
            labels = torch.cat([part.labels for part in parts], 1)
        candidates = Candidates(
            torch.cat([part.boxes for part in parts], 1),
            torch.cat([part.scores for part in parts], 2),
            labels,
        )
        boxes, values, chosen = _suppressed(
            _without_small(candidates, self.selection.min_bbox_size),
            self.selection._replace(score_threshold=self._threshold()),
        )
        scores = values.sigmoid() if self.is_sigmoid else values.clamp(min=0)
        return boxes, scores, chosen

    def _threshold(self) -> float:
        """The score threshold, of logits where these are what is compared."""
        threshold = self.selection.score_threshold
        if not self.is_sigmoid:
            # A place that holds nothing passes not even a threshold of zero.
            return threshold
        if threshold <= 0:
            return torch.finfo(torch.float32).min
        if threshold >= 1:
            return torch.finfo(torch.float32).max
        return math.log(threshold / (1 - threshold))

    def _level(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        priors: Tensor,
        stride: Any,
        size: Tensor,
        select: bool,
    ) -> Candidates:
        """Candidates of one level; a map's places come last throughout."""
        batch = cls_score.size(0)
        scores = cls_score.flatten(2)
        if not self.is_sigmoid:
            scores = scores.unflatten(1, (-1, self.classes + 1)).softmax(2)[:, :, :-1]
            scores = scores.flatten(1, 2)
        anchors = scores.size(1) // self.classes
        places = scores.size(2)
        # One row for each box: (N, A * places, ...).
        deltas = bbox_pred.flatten(2).unflatten(1, (anchors, -1)).transpose(2, 3)
        deltas = deltas.flatten(1, 2)
        priors = priors.unflatten(0, (-1, anchors)).transpose(0, 1).flatten(0, 1)
        priors = priors.expand(batch, -1, -1)
        labels = None
        if select:
            scores = scores.flatten(1)
            limit = self.cfg.get('nms_pre', -1)
            number = scores.size(1)
            if limit > 0:
                number = (
                    min(limit, number)
                    if isinstance(number, int)
                    else torch.sym_min(limit, number)
                )
            scores, index = scores.topk(number)
            channel, place = _divided(index, places)
            labels = channel % self.classes
            row = (channel // self.classes * places + place)[..., None]
            deltas = deltas.gather(1, row.expand(-1, -1, deltas.size(2)))
            priors = priors.gather(1, row.expand(-1, -1, priors.size(2)))
            scores = scores[:, None]
        else:
            scores = scores.unflatten(1, (anchors, self.classes)).transpose(1, 2)
            scores = scores.flatten(2)
        if self.is_gfl:
            shape = deltas.shape[:2]
            # The mean of each side's distribution, as the head's Integral.
            bins = deltas.unflatten(2, (4, -1)).softmax(-1)
            deltas = (bins * self.head.integral.project).sum(-1) * stride[0]
            priors = self.head.anchor_center(priors.flatten(0, 1)).unflatten(0, shape)
        boxes = _decoded(self.head.bbox_coder, priors, deltas, size)
        return Candidates(boxes, scores, labels)


def _results(boxes: Tensor, scores: Tensor, labels: Tensor) -> Dict[str, Tensor]:
    """Count the boxes and clear the places behind them."""
    valid = scores > 0
    return dict(
        boxes=boxes.masked_fill(~valid[..., None], 0),
        scores=scores,
        labels=labels.masked_fill(~valid, -1),
        counts=valid.sum(1),
    )


def _maps(name: str, maps: Sequence[Tensor]) -> Dict[str, Tensor]:
    return {f'{name}_{i}': each for i, each in enumerate(maps)}


class ExportableDetector(Exportable):
    """A detector whose results have a fixed size.

    Attributes:
        selection (Selection): Which boxes are returned; its ``min_bbox_size`` is that
            of the dense head.
    """

    selection: Selection


class SingleStage(ExportableDetector):
    """RTMDet, RetinaNet, GFL, SSD and other single-stage detectors."""

    def __init__(self, model: SingleStageDetector) -> None:
        super().__init__(model)
        head = model.bbox_head
        _check_dense_head(head, model.test_cfg, 'test_cfg')
        self.decoder = DenseDecoder(head, model.test_cfg)
        self.selection = self.decoder.selection

    def predict(self, x: Tensor, size: Optional[Tensor] = None) -> Outputs:
        assert size is not None
        cls_scores, bbox_preds = self.model.bbox_head(self.model.extract_feat(x))[:2]
        raw = {**_maps('cls_score', cls_scores), **_maps('bbox_pred', bbox_preds)}
        return _results(*self.decoder(cls_scores, bbox_preds, size)), raw


class TwoStage(ExportableDetector):
    """Faster R-CNN and Mask R-CNN."""

    by_proposal = ('cls_score', 'bbox_pred')

    def __init__(self, model: TwoStageDetector) -> None:
        super().__init__(model)
        cfg = model.test_cfg
        _check_keys(cfg, 'test_cfg', ('rpn', 'rcnn'))
        _check_dense_head(model.rpn_head, cfg.rpn, 'test_cfg.rpn')
        _check_roi_head(model.roi_head, cfg.rcnn)
        self.proposer = DenseDecoder(model.rpn_head, cfg.rpn, per_level=True)
        self.selection = Selection.of(cfg.rcnn)._replace(
            min_bbox_size=self.proposer.selection.min_bbox_size
        )
        self.mask_threshold = float(cfg.rcnn.get('mask_thr_binary', 0.5))

    def predict(self, x: Tensor, size: Optional[Tensor] = None) -> Outputs:
        assert size is not None
        roi = self.model.roi_head
        feats = self.model.extract_feat(x)
        cls_scores, bbox_preds = self.model.rpn_head(feats)
        proposals, likelihoods, _ = self.proposer(cls_scores, bbox_preds, size)
        features, order = _extract(roi.bbox_roi_extractor, feats, proposals)
        if roi.with_shared_head:
            features = roi.shared_head(features)
        logits, deltas = (
            _in_order(each, order).unflatten(0, proposals.shape[:2])
            for each in roi.bbox_head(features)
        )
        boxes, scores, labels = self._second(
            proposals, likelihoods > 0, logits, deltas, size
        )
        found = _results(boxes, scores, labels)
        raw = {
            **_maps('rpn_cls_score', cls_scores),
            **_maps('rpn_bbox_pred', bbox_preds),
            'proposals': proposals,
            'cls_score': logits,
            'bbox_pred': deltas,
        }
        if roi.with_mask:
            found['masks'] = self._masks(feats, found)
        return found, raw

    def _second(
        self,
        proposals: Tensor,
        valid: Tensor,
        logits: Tensor,
        deltas: Tensor,
        size: Tensor,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Decode and select what the second stage says of the proposals."""
        head = self.model.roi_head.bbox_head
        scores = logits.softmax(-1)[..., :-1].masked_fill(~valid[..., None], NOTHING)
        number, classes = scores.shape[1:]
        if head.reg_class_agnostic:
            boxes = _decoded(head.bbox_coder, proposals, deltas, size)
            candidates = Candidates(boxes, scores.transpose(1, 2))
        else:
            rois = proposals[:, :, None].expand(-1, -1, classes, -1).flatten(1, 2)
            deltas = deltas.unflatten(2, (classes, 4)).flatten(1, 2)
            boxes = _decoded(head.bbox_coder, rois, deltas, size)
            labels = torch.arange(classes).repeat(number)[None]
            candidates = Candidates(boxes, scores.flatten(1)[:, None], labels)
        boxes, scores, labels = _suppressed(candidates, self.selection)
        return boxes, scores.clamp(min=0), labels

    def _masks(self, feats: Sequence[Tensor], found: Dict[str, Tensor]) -> Tensor:
        """Predict each box's mask of its class, shape (N, K, 28, 28)."""
        roi = self.model.roi_head
        shape = found['labels'].shape
        features, order = _extract(roi.mask_roi_extractor, feats, found['boxes'])
        logits = _in_order(roi.mask_head(features), order)
        if roi.mask_head.class_agnostic:
            masks = logits[:, 0]
        else:
            labels = found['labels'].clamp(min=0).flatten()[:, None, None, None]
            masks = logits.gather(1, labels.expand(-1, -1, *logits.shape[2:]))[:, 0]
        return masks.sigmoid().unflatten(0, shape)


def _extract(
    extractor: SingleRoIExtractor, feats: Sequence[Tensor], boxes: Tensor
) -> Tuple[Tensor, Tensor]:
    """Sample the features of boxes (N, K, 4), level by level.

    Returns the features, and which of the N * K boxes each belongs to.
    """
    batch, number = boxes.shape[:2]
    image = torch.arange(batch, dtype=boxes.dtype)[:, None, None]
    regions = torch.cat((image.expand(-1, number, 1), boxes), 2).flatten(0, 1)
    levels = extractor.map_roi_levels(regions, extractor.num_inputs)
    layers = extractor.roi_layers
    return region_features(
        feats[: len(layers)],
        regions,
        levels,
        layers[0].output_size[0],
        [layer.spatial_scale for layer in layers],
        max(0, layers[0].sampling_ratio),
        layers[0].aligned,
    )


def _in_order(values: Tensor, order: Tensor) -> Tensor:
    """Sort rows by the boxes that they belong to."""
    places = torch.arange(order.size(0))
    return values[torch.zeros_like(order).scatter(0, order, places)]


def _refuse(what: str, found: Any, known: str) -> None:
    name = found if isinstance(found, str) else type(found).__name__
    raise InputError(f'{what} {name} cannot be exported; what can is {known}.')


def _check_dense_head(head: nn.Module, cfg: Any, name: str) -> None:
    """Reject a head whose boxes are selected otherwise."""
    known = 'RTMDet, RetinaNet, GFL, SSD, other anchor heads without score factors'
    usual = (BaseDenseHead, dense_heads.RPNHead, dense_heads.GFLHead)
    own = getattr(type(head), '_predict_by_feat_single', None)
    factors = isinstance(
        head, (dense_heads.ATSSHead, dense_heads.FCOSHead)
    ) and not isinstance(head, dense_heads.RTMDetHead)
    if (
        own not in [each._predict_by_feat_single for each in usual]
        or type(head).predict_by_feat is not BaseDenseHead.predict_by_feat
        or type(head)._bbox_post_process
        not in (
            BaseDenseHead._bbox_post_process,
            dense_heads.RPNHead._bbox_post_process,
        )
        or (factors and not isinstance(head, dense_heads.GFLHead))
        or getattr(head.loss_cls, 'custom_cls_channels', False)
        or getattr(head, 'with_objectness', False)
    ):
        _refuse('The head', head, f'the heads of {known}, and RPNHead')
    _check_coder(head.bbox_coder)
    _check_selection(cfg, name)
    if not isinstance(head, dense_heads.RPNHead) and cfg.get('nms_pre', -1) < 1:
        # MMDetection drops the last candidate of each level then.
        nms_pre = cfg.get('nms_pre')
        _refuse('The box selection', f'{name}.nms_pre={nms_pre}', 'nms_pre > 0')


def _check_coder(coder: nn.Module) -> None:
    if type(coder) not in (DeltaXYWHBBoxCoder, DistancePointBBoxCoder):
        _refuse('The box coder', coder, 'DeltaXYWHBBoxCoder and DistancePointBBoxCoder')


def _check_selection(cfg: Any, name: str) -> None:
    """Reject settings of the box selection that the exported file would not follow."""
    cfg = cfg or {}
    _check_keys(cfg, name, _TEST_KEYS[name])
    nms = cfg.get('nms') or {}
    _check_keys(nms, f'{name}.nms', _NMS_KEYS)
    if (
        nms.get('type', 'nms') != 'nms'
        or 'iou_threshold' not in nms
        or nms.get('class_agnostic')
        or nms.get('offset')
    ):
        _refuse(
            'The box selection',
            f'{name}.nms={dict(nms)}',
            "dict(type='nms', iou_threshold=X) with class_agnostic=False and offset=0",
        )
    if cfg.get('max_per_img', -1) < 1:
        _refuse(
            'The box selection',
            f'{name}.max_per_img={cfg.get("max_per_img", -1)}',
            'a fixed number of boxes, max_per_img > 0',
        )


def _check_keys(cfg: Any, name: str, known: Iterable[str]) -> None:
    """Reject settings that MMDetection does not have, or that are not exported."""
    for key in cfg:
        if key not in known:
            _refuse('The setting', f'{name}.{key}={cfg[key]}', ', '.join(known))


def _check_roi_head(head: nn.Module, cfg: Any) -> None:
    """Refuse a second stage that does more than classify and refine once."""
    if type(head) is not roi_heads.StandardRoIHead:
        _refuse('The RoI head', head, 'StandardRoIHead (Faster and Mask R-CNN)')
    own = type(head.bbox_head)._predict_by_feat_single
    if (
        own is not BBoxHead._predict_by_feat_single
        or head.bbox_head.custom_cls_channels
    ):
        _refuse('The box head', head.bbox_head, 'BBoxHead and its Shared2FCBBoxHead')
    extractors = [head.bbox_roi_extractor]
    if head.with_mask:
        if type(head.mask_head) is not roi_heads.FCNMaskHead:
            _refuse('The mask head', head.mask_head, 'FCNMaskHead')
        extractors.append(head.mask_roi_extractor)
    for extractor in extractors:
        layers = getattr(extractor, 'roi_layers', [])
        usual = type(extractor) is SingleRoIExtractor and all(
            type(layer).__name__ == 'RoIAlign'
            and layer.pool_mode == 'avg'
            and layer.output_size[0] == layer.output_size[1]
            for layer in layers
        )
        if not usual:
            _refuse('The RoI extractor', extractor, 'SingleRoIExtractor with RoIAlign')
    _check_coder(head.bbox_head.bbox_coder)
    _check_selection(cfg, 'test_cfg.rcnn')
    if cfg.get('mask_thr_binary', 0.5) < 0:
        threshold = cfg.mask_thr_binary
        _refuse('The setting', f'mask_thr_binary={threshold}', 'a threshold from 0 on')


def exportable(model: nn.Module) -> ExportableDetector:
    """Make a detector that can be exported of MMDetection's.

    Args:
        model (nn.Module): A single-stage or a two-stage detector, condensed.

    Returns:
        ExportableDetector: With the same weights. It takes prepared images, shape
        (N, 3, H, W), padded, and their (height, width) without padding, float32.

    Raises:
        InputError: If it, its head, box coder or box selection is another than
            those that are known; the message names it and them.
    """
    known = 'single-stage detectors, Faster R-CNN and Mask R-CNN'
    own = type(model).predict
    if isinstance(model, TwoStageDetector) and own is TwoStageDetector.predict:
        return TwoStage(model)
    if isinstance(model, SingleStageDetector) and own is SingleStageDetector.predict:
        return SingleStage(model)
    _refuse('The detector', model, known)
    raise AssertionError
