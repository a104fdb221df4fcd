"""Exported files in other tools: simplifiers, converters to fewer bits, OpenCV."""

import cv2
import mmcv
import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

# As ONNX Runtime ranks its messages; errors come as exceptions, too.
SILENT = 4


def slim(source, target, images):
    model = pytest.importorskip('onnxslim').slim(source)
    onnx.save(model, target)


def simplify(source, target, images):
    model, is_equal = pytest.importorskip('onnxsim').simplify(onnx.load(source))
    assert is_equal
    onnx.save(model, target)


def to_float16(source, target, images):
    transformers = pytest.importorskip('onnxruntime.transformers.float16')
    convert = transformers.convert_float_to_float16
    onnx.save(convert(onnx.load(source), keep_io_types=True), target)


def to_int8(source, target, images):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self):
            self.left = list(images)

        def get_next(self):
            return dict(images=self.left.pop()) if self.left else None

    # The box selection takes sizes in pixels, for which eight bits are too few.
    options = dict(op_types_to_quantize=['Conv'], per_channel=True)
    quantize_static(source, target, Images(), **options)


def run(path, images):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    session = onnxruntime.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider']
    )
    names = [each.name for each in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(images=x)))) for x in images]


def load(paths):
    return [
        np.ascontiguousarray(mmcv.imread(str(path)).transpose(2, 0, 1)[None])
        for path in sorted(paths)
    ]


@pytest.mark.parametrize(
    ('rewrite', 'tolerance'),
    [(slim, 1e-5), (simplify, 1e-5), (to_float16, 2e-3), (to_int8, 2e-2)],
)
def test_classifiers(exported, digits, tmp_path, rewrite, tolerance):
    images = load((digits / 'classification' / 'val').rglob('*.png'))[:4]
    source, target = exported['classifier'].file, str(tmp_path / 'x.onnx')
    rewrite(source, target, images)
    pairs = zip(run(source, images), run(target, images))
    for expected, found in pairs:
        np.testing.assert_allclose(found['scores'], expected['scores'], atol=tolerance)


@pytest.mark.parametrize(
    ('rewrite', 'pixels', 'tolerance'),
    [(slim, 0.01, 1e-5), (simplify, 0.01, 1e-5), (to_float16, 2, 2e-3)],
)
def test_detectors(exported, digits, tmp_path, rewrite, pixels, tolerance):
    images = load((digits / 'val').glob('*.png'))
    source, target = exported['detector'].file, str(tmp_path / 'x.onnx')
    rewrite(source, target, images)
    pairs = zip(run(source, images), run(target, images))
    for expected, found in pairs:
        count = int(expected['counts'][0])
        assert count > 10 and int(found['counts'][0]) == count
        boxes, others = expected['boxes'][0, :count], found['boxes'][0, :count]
        distances = np.abs(boxes[:, None] - others).max(2)
        differences = np.abs(expected['scores'][0, :count, None] - found['scores'][0])
        labels = expected['labels'][0, :count, None] == found['labels'][0]
        same = labels & (differences < tolerance)
        assert (same[:, :count] & (distances < pixels)).any(1).all()


def test_a_quantised_detector(exported, digits, tmp_path):
    images = load((digits / 'val').glob('*.png'))
    source, target = exported['detector'].file, str(tmp_path / 'x.onnx')
    to_int8(source, target, images)
    for expected, found in zip(run(source, images), run(target, images)):
        count, other = int(expected['counts'][0]), int(found['counts'][0])
        assert abs(other - count) <= 2
        overlaps = box_iou(
            *(torch.from_numpy(each['boxes'][0]) for each in (expected, found))
        )
        same = torch.from_numpy(
            expected['labels'][0, :, None] == found['labels'][0, None]
        )
        scores = [torch.from_numpy(each['scores'][0]) for each in (expected, found)]
        same &= (scores[0][:, None] - scores[1]).abs() < 0.02
        same &= overlaps > 0.5
        assert same[:count, :other].any(1).float().mean() >= 0.5


def test_opencv_runs_classifiers(exported, digits):
    """It has no NonMaxSuppression, so it runs only the raw heads of detectors."""
    images = load((digits / 'classification' / 'val').rglob('*.png'))[:2]
    path = exported['classifier'].file
    network = cv2.dnn.readNetFromONNX(path)
    for image, expected in zip(images, run(path, images)):
        network.setInput(image)
        np.testing.assert_allclose(network.forward(), expected['scores'], atol=1e-5)
