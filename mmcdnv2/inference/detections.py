"""Pictures of a detector's detections."""

from pathlib import Path
from typing import Union

import matplotlib
import mmcv
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import DATASETS

from ..files import replace_when_done

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

# At most as many are drawn, taken evenly.
NUM_IMAGES = 8


def draw_detections(
    config: Union[str, Path],
    checkpoint: Union[str, Path],
    out: Union[str, Path],
    score_threshold: float = 0.5,
) -> None:
    """Draw ground truth next to detections for test images that show objects.

    Args:
        config (str | Path): Config of a detector.
        checkpoint (str | Path): Its checkpoint.
        out (str | Path): Picture to write.
        score_threshold (float): Detections with a lower score are not drawn.
            Defaults to 0.5.
    """
    model = init_detector(str(config), str(checkpoint), device='cpu')
    dataset = DATASETS.build(model.cfg.test_dataloader.dataset)
    classes = dataset.metainfo['classes']
    items = [dataset.get_data_info(i) for i in range(len(dataset))]
    items = [item for item in items if item['instances']]
    items = items[:: max(1, len(items) // NUM_IMAGES)][:NUM_IMAGES]
    columns = 2
    rows = -(-len(items) // columns)
    figure, axes = plt.subplots(
        rows, 2 * columns, figsize=(4 * columns * 1.6, rows * 3.4), squeeze=False
    )
    figure.suptitle(
        f'Ground truth (left) and detections with a score above {score_threshold:g} '
        '(right)'
    )
    for panel in axes.flat:
        panel.axis('off')
    for item, ax in zip(items, axes.reshape(-1, 2)):
        image = mmcv.imread(item['img_path'], channel_order='rgb')
        found = inference_detector(model, item['img_path']).pred_instances.numpy()
        found = found[found.scores > score_threshold]
        truth = [
            (each['bbox'], classes[each['bbox_label']], 'lime')
            for each in item['instances']
        ]
        detections = [
            (box, f'{classes[label]} {score:.2f}', 'yellow')
            for box, label, score in zip(found.bboxes, found.labels, found.scores)
        ]
        for panel, boxes in zip(ax, (truth, detections)):
            panel.imshow(image)
            for box, text, colour in boxes:
                _draw_box(panel, box, text, colour)
    figure.tight_layout()
    with replace_when_done(out) as path:
        figure.savefig(path, dpi=80)
    plt.close(figure)


def _draw_box(panel: plt.Axes, box, text: str, colour: str) -> None:
    left, top, right, bottom = box
    panel.add_patch(
        plt.Rectangle(
            (left, top), right - left, bottom - top, fill=False, ec=colour, lw=1.5
        )
    )
    panel.text(
        left,
        max(top, 8),
        text,
        fontsize=9,
        va='bottom',
        bbox=dict(facecolor=colour, alpha=0.8, pad=0.5, lw=0),
    )
