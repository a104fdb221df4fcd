"""The latency plot."""

from conftest import ROOT

from lab.benchmark import NETWORKS, RUNTIMES, Report, Row, Settings, latency_figure
from lab.benchmark.latency import model_names
from lab.benchmark.networks import read_top1


def test_names_do_not_overlap():
    top1 = read_top1(ROOT)
    assert top1['sfr_shufflenetv2_0.5x'][0] is None
    assert all(source for accuracy, source in top1.values() if accuracy)
    rows = []
    for name in model_names():
        network, _, form = name.partition('-')
        family = NETWORKS[network].family
        for i, runtime in enumerate(RUNTIMES):
            zeros = dict(
                spread=0, ratio=1, macs=1, gflops=1, product_share=1, copy_share=1
            )
            measured = dict(params=1, difference=0.0, times=[9.0 + i, 10.0 + i])
            accuracy = dict(zip(('top1', 'source'), top1[network]))
            rows.append(
                Row(
                    network,
                    form,
                    runtime,
                    family,
                    ms=9.5 + i,
                    **zeros,
                    **measured,
                    **accuracy,
                )
            )
    report = Report(Settings(), dict(processor='some processor'), 1.0, 1.0, rows, {})
    figure = latency_figure(report)
    figure.canvas.draw()
    assert [ax.get_title() for ax in figure.axes] == list(RUNTIMES)
    for ax in figure.axes[1::2]:
        for text in ax.texts:
            # Otherwise the box includes the arrow.
            text.arrowprops = text.arrow_patch = None
        boxes = [text.get_window_extent() for text in ax.texts]
        assert len(boxes) == 15
        boxes.sort(key=lambda box: box.y0)
        for below, above in zip(boxes, boxes[1:]):
            assert below.y1 <= above.y0 + 2
        assert all(box.x1 <= figure.bbox.width for box in boxes)
