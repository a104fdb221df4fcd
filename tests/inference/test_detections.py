"""The picture of ground truth beside detections."""

import cv2
import numpy as np

from mmcdnv2.inference.detections import draw_detections


def count(image, bgr):
    return (np.abs(image.astype(int) - bgr).max(2) < 10).sum()


def test_draws_truth_and_detections(tiny_configs, checkpoints, tmp_path):
    pictures = []
    for threshold in (0, 1):
        path = tmp_path / f'{threshold}.png'
        files = (tiny_configs['detector'], checkpoints['detector'])
        draw_detections(*files, path, score_threshold=threshold)
        pictures.append(cv2.imread(str(path)))
    lime, yellow = (0, 255, 0), (0, 255, 255)
    # No score is above 1, so only the truth is left.
    assert count(pictures[0], yellow) > 100
    assert count(pictures[1], yellow) == 0
    assert count(pictures[1], lime) > 10
