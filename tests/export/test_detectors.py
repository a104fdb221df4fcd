"""Results of fixed size against MMDetection's."""

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config

pytest.importorskip('onnxscript')

from lab.benchmark.detectors import (  # noqa: E402
    DetectorSettings,
    build_detector,
    config_of,
)
from mmcdnv2.builder import build_model  # noqa: E402
from mmcdnv2.errors import InputError  # noqa: E402
from mmcdnv2.export.comparison import Boxes, unmatched  # noqa: E402
from mmcdnv2.export.detectors import exportable  # noqa: E402

SIZE = (128, 160)
RETINA, FASTER = 'retinanet/retinanet', 'faster_rcnn/faster-rcnn'


def make(name, image, **changes):
    cfg = config_of(name, ROOT)
    cfg.merge_from_dict(changes)
    settings = DetectorSettings((name,), size=SIZE, image=image)
    with torch.no_grad():
        return build_detector(name, cfg, image, settings)


def lacking(boxes, others):
    """Number of boxes that the others do not have, to the roundings of their sums.

    Random weights give overlaps next to the threshold, where a rounding decides whether
    a box is suppressed, so a few may be lacking.
    """
    far = (boxes.boxes[:, None] - others.boxes[None]).abs().amax(dim=2) > 0.05
    scores = boxes.scores[:, None], others.scores[None]
    unlike = ~torch.isclose(*scores, rtol=1e-3, atol=1e-6)
    other = boxes.labels[:, None] != others.labels[None]
    return int((far | unlike | other).all(dim=1).sum())


@pytest.fixture
def image(digits):
    return str(next((digits / 'val').glob('*.png')))


@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('rtmdet_cdnv2_a', {}),
        # Few enough candidates to be selected.
        ('rtmdet_cdnv2_a', {'model.test_cfg.nms_pre': 100}),
        # Limits of the overlaps' selection itself.
        (
            'rtmdet_cdnv2_a',
            {'model.test_cfg.nms': dict(score_threshold=0.0019, split_thr=99)},
        ),
        ('ssdlite_cdnv2_a', {}),
        ('gfl_cdnv2_a_pafpn', {}),
        ('retinanet_cdnv2_a_laterals', {'model.test_cfg.min_bbox_size': 20}),
        ('faster_rcnn_cdnv2_a_laterals', {}),
        (
            'faster_rcnn_cdnv2_a_laterals',
            {
                'model.roi_head.bbox_head.reg_class_agnostic': True,
                'model.test_cfg.rpn.nms_pre': 50,
            },
        ),
        (
            'faster_rcnn_cdnv2_a_laterals',
            {
                'model.test_cfg.rpn.nms': dict(score_threshold=0.515),
                'model.test_cfg.rcnn.nms': dict(score_threshold=0.1, max_num=30),
            },
        ),
    ],
)
@torch.no_grad()
def test_finds_what_mmdetection_finds(name, changes, image):
    model, inputs, samples = make(name, image, **changes)
    both = torch.cat([inputs, inputs.flip(3)])
    # Less than the padded input, so that boxes are cut.
    height, width = 117, 150
    for sample in samples:
        sample.set_metainfo(dict(img_shape=(height, width)))
    network = exportable(model)
    found, _ = network.predict(both, torch.tensor([height, width]).float())
    most = network.selection.number
    assert found['boxes'].shape == (2, most, 4)
    for i, pixels in enumerate(both):
        expected = model.predict(pixels[None], samples, rescale=False)[0].pred_instances
        count = int(found['counts'][i])
        assert 10 < count <= most
        ours = Boxes(*(found[key][i, :count] for key in ('boxes', 'scores', 'labels')))
        theirs = Boxes(expected.bboxes, expected.scores, expected.labels)
        assert abs(count - len(theirs.scores)) <= 2
        assert lacking(ours, theirs) <= 3
        assert lacking(theirs, ours) <= 3
        assert not unmatched(ours, theirs, (height, width), *network.selection)
        assert (found['labels'][i, count:] == -1).all()
        assert (found['scores'][i, count:] == 0).all()
        assert (ours.boxes[:, 0::2] <= width).all() and (ours.boxes >= 0).all()


@torch.no_grad()
def test_masks_are_those_of_the_boxes(image):
    cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_cdnv2_c_fpn_1x_coco.py')
    cfg.model.backbone.update(arch='a')
    cfg.model.neck.in_channels = [32, 96, 288, 800]
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, mask_thr_binary=0.9)
    torch.manual_seed(0)
    model = build_model(cfg)
    x = torch.randn(1, 3, *SIZE)
    network = exportable(model)
    assert network.mask_threshold == 0.9
    found, _ = network.predict(x, torch.tensor(SIZE).float())
    feats = model.extract_feat(x)
    from mmdet.structures.bbox import bbox2roi

    rois = bbox2roi([found['boxes'][0]])
    logits = model.roi_head._mask_forward(feats, rois)['mask_preds']
    labels = found['labels'][0].clamp(min=0)
    expected = logits[torch.arange(len(labels)), labels].sigmoid()
    assert int(found['counts'][0]) > 50
    torch.testing.assert_close(found['masks'][0], expected)


@pytest.mark.parametrize(
    ('config', 'changes', 'name', 'known'),
    [
        ('detr/detr_r50_8xb2-150e_coco.py', {}, 'DETR', 'Faster R-CNN'),
        ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', {}, 'FCOSHead', 'RetinaNet'),
        (
            'retinanet/retinanet_r50_fpn_1x_coco.py',
            {'model.test_cfg.nms': dict(type='soft_nms', iou_threshold=0.5)},
            'soft_nms',
            'iou_threshold',
        ),
        (
            'retinanet/retinanet_r50_fpn_1x_coco.py',
            {'model.bbox_head.bbox_coder': dict(type='TBLRBBoxCoder')},
            'TBLRBBoxCoder',
            'DeltaXYWHBBoxCoder',
        ),
        (
            'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
            {},
            'CascadeRoIHead',
            'StandardRoIHead',
        ),
        *(
            (f'{config}_r50_fpn_1x_coco.py', {f'model.{key}': value}, name, known)
            for config, key, value, name, known in (
                (RETINA, 'test_cfg.multi_label', True, 'multi_label=True', 'score_thr'),
                (RETINA, 'test_cfg.nms.offset', 1, "'offset': 1", 'offset=0'),
                (RETINA, 'test_cfg.nms.class_agnostic', True, 'class_agn', '=False'),
                (RETINA, 'test_cfg.nms.sigma', 0.5, 'nms.sigma=0.5', 'max_num'),
                (RETINA, 'test_cfg.nms_pre', -1, 'nms_pre=-1', 'nms_pre > 0'),
                (RETINA, 'test_cfg.max_per_img', -1, 'max_per_img=-1', 'per_img > 0'),
                (FASTER, 'test_cfg.nms', {}, 'test_cfg.nms={}', 'rpn, rcnn'),
                (FASTER, 'test_cfg.rpn.score_thr', 0.5, 'rpn.score_thr', 'nms_pre'),
                (FASTER, 'test_cfg.rpn.nms.offset', 1, 'rpn.nms=.*offset', 'offset=0'),
                (FASTER, 'test_cfg.rcnn.min_bbox_size', 9, 'rcnn.min_bb', 'mask_thr'),
                (FASTER, 'test_cfg.rcnn.mask_thr_binary', -1, 'binary=-1', 'from 0'),
            )
        ),
    ],
)
def test_names_what_cannot_be_exported(config, changes, name, known):
    from mmengine.hub import get_config

    cfg = get_config(f'mmdet::{config}')
    cfg.merge_from_dict(changes)
    cfg.model.backbone.init_cfg = None
    with pytest.raises(InputError, match=name) as caught:
        exportable(build_model(cfg))
    assert known in str(caught.value)
