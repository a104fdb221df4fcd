"""Compare predictions of a sparse and a condensed model, loaded by config path.

    python check_wheel.py KIND SPARSE_CONFIG SPARSE_CHECKPOINT \
        CONDENSED_CONFIG CONDENSED_CHECKPOINT IMAGE

KIND is 'classifier' or 'detector'; SPARSE_CONFIG is the name of a config in the
installed package. Like a user's script, this does not import mmcdnv2 before the config
does.
"""

import importlib.util
import sys
from pathlib import Path
from typing import List

import numpy as np


def classify(config: str, checkpoint: str, image: str) -> List[float]:
    """Return the class scores of a model loaded in both of mmpretrain's ways."""
    from mmpretrain import ImageClassificationInferencer, get_model

    inferencers = (
        ImageClassificationInferencer(config, pretrained=checkpoint, device='cpu'),
        ImageClassificationInferencer(get_model(config, pretrained=checkpoint)),
    )
    scores = [inferencer(image)[0]['pred_scores'] for inferencer in inferencers]
    np.testing.assert_allclose(*scores, atol=1e-5)
    return list(scores[0])


def detect(config: str, checkpoint: str, image: str) -> List[float]:
    """Return scores, labels and coordinates of the detections."""
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(config, checkpoint, device='cpu')
    found = inferencer(image)['predictions'][0]
    return [*found['scores'], *found['labels'], *sum(found['bboxes'], [])]


def main() -> None:
    """Compare the predictions."""
    kind, name, checkpoint, condensed, condensed_checkpoint, image = sys.argv[1:]
    package = Path(importlib.util.find_spec('mmcdnv2').origin).parent
    if Path(sys.prefix) not in package.parents:
        sys.exit(f'mmcdnv2 must be imported from the wheel, not from {package}.')
    (config,) = (package / '.mim' / 'configs').rglob(name)
    predict = dict(classifier=classify, detector=detect)[kind]
    sparse = predict(str(config), checkpoint, image)
    scores = predict(condensed, condensed_checkpoint, image)
    if not scores:
        sys.exit('The models detected nothing, so there is nothing to compare.')
    np.testing.assert_allclose(scores, sparse, atol=1e-2, rtol=1e-3)
    print(f'equal predictions: {len(scores)} numbers, the first {scores[0]:.3f}')


if __name__ == '__main__':
    main()
