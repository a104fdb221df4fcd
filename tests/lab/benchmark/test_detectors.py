"""The detector benchmark."""

import pytest
import torch
from conftest import ROOT

from lab.benchmark import (
    DETECTORS,
    STEPS,
    DetectorReport,
    DetectorRow,
    DetectorSettings,
    detector_figure,
    measure_detectors,
)
from lab.benchmark import detectors as module
from mmcdnv2.errors import InputError
from mmcdnv2.layers import sparse_layers


@pytest.fixture
def image(digits):
    return str(next((digits / 'val').glob('*.png')))


NAMES = (
    'rtmdet_cdnv2_a',
    'ssdlite_cdnv2_a',
    'gfl_cdnv2_a_pafpn',
    'retinanet_cdnv2_a_laterals',
    'faster_rcnn_cdnv2_a_laterals',
)


def test_times_detectors_part_by_part(image, monkeypatch):
    prepared = []
    prepare = module._prepare
    monkeypatch.setattr(
        module, '_prepare', lambda *a: prepared.append(prepare(*a)) or prepared[-1]
    )
    settings = DetectorSettings(
        NAMES, ('eager',), (128, 128), image, rounds=1, baseline=NAMES[1]
    )
    report = measure_detectors(settings, ROOT)
    assert [row.name for row in report.rows] == list(NAMES)
    assert report.rows[1].ratio == 1
    for row, detector in zip(report.rows, prepared):
        assert list(row.steps) == list(STEPS)
        assert all(ms > 0 for ms in row.steps.values())
        assert all(row.macs.values())
        # Neither none nor all: the maps have thousands of positions and 80 classes.
        assert 20 < row.boxes <= 300
        assert row.exported_ms is None
        # The last part returns the detector's result; equal scores in any order.
        whole = detector.whole()[0].pred_instances
        torch.testing.assert_close(detector.steps[-1]()[0].scores, whole.scores)


def test_exports_detectors(image, monkeypatch):
    pytest.importorskip('onnxruntime')
    prepared = []
    prepare = module._prepare
    monkeypatch.setattr(
        module, '_prepare', lambda *a: prepared.append(prepare(*a)) or prepared[-1]
    )
    settings = DetectorSettings(NAMES[:1], size=(64, 64), image=image, rounds=1)
    (row,) = measure_detectors(settings, ROOT).rows
    assert row.exported_ms > 0 and row.exported_ratio == 1
    # It detects about as many boxes.
    counts = prepared[0].exported()['counts']
    assert row.boxes > 20 and abs(int(counts[0]) - row.boxes) <= 3
    with pytest.raises(InputError, match="'onnxruntime' .as a whole., got openvino"):
        DetectorSettings(runtimes=('openvino',))


def test_bars_add_up():
    rows = [
        DetectorRow(
            name,
            ms=10.0 + i,
            ratio=1.0,
            exported_ms=None,
            exported_ratio=None,
            exported_times=[],
            steps=dict(zip(STEPS, (4.0 + i, 3.0, 2.0, 1.0))),
            macs=dict(backbone=1, neck=2, head=3),
            params=4,
            boxes=5,
            times=[10.0],
        )
        for i, name in enumerate(
            [*DETECTORS, 'a_config_with_a_long_name_8xb32-320-300e_coco']
        )
    ]
    report = DetectorReport(
        DetectorSettings(), dict(processor='some processor'), rows, {}
    )
    figure = detector_figure(report)
    figure.canvas.draw()
    (ax,) = figure.axes
    ends = [bar.get_x() + bar.get_width() for bar in ax.containers[-1]]
    assert ends == [row.ms for row in rows[::-1]]
    labels = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert min(box.x0 for box in labels) >= 0
    for below, above in zip(labels, labels[1:]):
        assert below.y1 <= above.y0
    assert max(text.get_window_extent().x1 for text in ax.texts) < figure.bbox.x1
    title = figure._suptitle.get_window_extent()
    assert title.x0 >= 0 and title.x1 <= figure.bbox.x1
    assert title.y0 >= ax.get_window_extent().y1


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(models=('rtmdet',)), 'There is no detector rtmdet: choose from'),
        (dict(models=('nothing.py',)), 'There is no config file nothing.py'),
        (dict(baseline='rtmdet'), 'The baseline rtmdet is not measured'),
        (
            dict(models=(str(ROOT / 'configs/cdnv2_a_8xb128_in1k.py'),)),
            'is a ImageClassifier; only single-stage and two-stage detectors',
        ),
        (
            dict(models=(str(ROOT / 'configs/mask_rcnn_cdnv2_c_fpn_1x_coco.py'),)),
            'cannot be timed part by part: only detectors without masks',
        ),
    ],
)
def test_rejects_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        measure_detectors(DetectorSettings(**settings), ROOT)
    with pytest.raises(InputError, match='rounds must be at least 1'):
        DetectorSettings(rounds=0)
    with pytest.raises(InputError, match='multiples of 32, .* got 300 x 320'):
        DetectorSettings(size=(300, 320))


def test_is_condensed(image, monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, '_set_class_biases', lambda model, *_: seen.append(model)
    )
    settings = DetectorSettings(
        ('rtmdet_cdnv2_a',), ('eager',), (64, 64), image, rounds=1
    )
    measure_detectors(settings, ROOT)
    assert not sparse_layers(seen[0])
