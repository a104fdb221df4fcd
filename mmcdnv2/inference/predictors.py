"""Inferencers of MMDetection and MMPreTrain behind one interface."""

import copy
import time
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmpretrain import ImageClassificationInferencer, get_model
from torch import nn

from ..checkpoint import check_finite, load_checkpoint, load_weights, weights_of
from ..class_names import class_names, number_of_classes
from ..config import load_config, tested_datasets
from ..errors import InputError
from ..export.exported_models import exported_config
from ..export.pipeline import pipeline_of

# Shorter sides are drawn larger, so that the text on it can be read.
READABLE = 224


@dataclass(frozen=True)
class Found:
    """A class of an image, or an object in it.

    Attributes:
        label (int): The class, counted from zero.
        name (str): The class by its name or, where that is unknown, its number.
        score (float): From 0 to 1.
        box (tuple[float], optional): x1, y1, x2 and y2 in pixels, of an object.
        mask (dict, optional): The object's pixels, run-length encoded as COCO does.
    """

    label: int
    name: str
    score: float
    box: Optional[Tuple[float, ...]] = None
    mask: Optional[Dict[str, Any]] = None


class Predictor(ABC):
    """A model that says what is in an image, and draws it.

    Attributes:
        task (str): 'classification' or 'detection'.
        classes (list[str]): Their names, none where they are unknown.
        score_threshold (float): What has no higher score is not wanted unless
            something else is said.
        top (int, optional): How many are wanted at most unless something else is
            said; None means all.
    """

    task: str
    classes: List[str]
    score_threshold: float
    top: Optional[int]

    @abstractmethod
    def predict(self, image: str) -> Tuple[Any, float]:
        """Return the data sample of an image file, and seconds that the model took."""

    @abstractmethod
    def found(self, sample: Any) -> List[Found]:
        """Say what a data sample holds, the best first.

        Args:
            sample (BaseDataElement): As :meth:`predict` returns it; what is not
                wanted is not drawn any more either.

        Returns:
            list[Found]: What is wanted of it.
        """

    @abstractmethod
    def draw(self, image: str, sample: Any) -> np.ndarray:
        """Draw a data sample on its image; return RGB pixels (H, W, 3)."""

    def _name(self, label: int) -> str:
        return self.classes[label] if label < len(self.classes) else str(label)


class DetectionPredictor(Predictor):
    """MMDetection's inferencer.

    Args:
        inferencer (DetInferencer): With its model.
    """

    task = 'detection'
    score_threshold = 0.3
    top: Optional[int] = None

    def __init__(self, inferencer: DetInferencer) -> None:
        self.inferencer = inferencer
        self.classes = list(inferencer.model.dataset_meta.get('classes') or ())

    def predict(self, image: str) -> Tuple[Any, float]:
        ((_, data),) = self.inferencer.preprocess([image])
        return _timed(self.inferencer, data)

    def found(self, sample: Any) -> List[Found]:
        instances = sample.pred_instances.cpu()
        order = instances.scores.argsort(descending=True, stable=True)
        order = order[instances.scores[order] > self.score_threshold][: self.top]
        sample.pred_instances = instances[order]
        (values,) = self.inferencer.postprocess([sample])['predictions']
        masks = values.get('masks') or [None] * len(values['labels'])
        return [
            Found(label, self._name(label), score, tuple(box), mask)
            for label, score, box, mask in zip(
                values['labels'], values['scores'], values['bboxes'], masks
            )
        ]

    def draw(self, image: str, sample: Any) -> np.ndarray:
        # A box that ends in the padding would shrink the image in its picture.
        height, width = sample.ori_shape[:2]
        boxes = sample.pred_instances.bboxes
        limit = boxes.new_tensor((width, height, width, height))
        sample.pred_instances.bboxes = torch.minimum(boxes.clamp(min=0), limit)
        # What is not wanted was taken from it.
        (picture,) = self.inferencer.visualize(
            [image], [sample], return_vis=True, pred_score_thr=-1
        )
        return picture


class ClassificationPredictor(Predictor):
    """MMPreTrain's inferencer.

    Args:
        inferencer (ImageClassificationInferencer): With its model.
    """

    task = 'classification'
    score_threshold = 0.0
    top: Optional[int] = 5

    def __init__(self, inferencer: ImageClassificationInferencer) -> None:
        self.inferencer = inferencer
        self.classes = list(inferencer.classes or ())

    def predict(self, image: str) -> Tuple[Any, float]:
        (data,) = self.inferencer.preprocess([image])
        return _timed(self.inferencer, data)

    def found(self, sample: Any) -> List[Found]:
        (values,) = self.inferencer.postprocess([sample], [])
        scores = values['pred_scores']
        best = np.argsort(-scores, kind='stable')[: self.top]
        return [
            Found(int(label), self._name(label), float(scores[label]))
            for label in best
            if scores[label] > self.score_threshold
        ]

    def draw(self, image: str, sample: Any) -> np.ndarray:
        height, width = sample.ori_shape[:2]
        # It returns pictures only if it may write them somewhere, too.
        with TemporaryDirectory() as folder:
            (picture,) = self.inferencer.visualize(
                [image],
                [sample],
                show_dir=folder,
                resize=READABLE if min(height, width) < READABLE else None,
            )
        return picture


def _timed(inferencer: Any, data: Any) -> Tuple[Any, float]:
    began = time.perf_counter()
    (sample,) = inferencer.forward(data)
    return sample, time.perf_counter() - began


class _ExactDetInferencer(DetInferencer):
    """Loads only weights that fit exactly, and knows the classes without COCO's help.

    Args:
        cfg (Config): The detector's.
        weights (tuple, optional): Content and path of its checkpoint. An exported
            file has none.
        device (str): Where to run.
    """

    def __init__(
        self, cfg: Config, weights: Optional[Tuple[Dict[str, Any], str]], device: str
    ) -> None:
        self._weights = weights
        super().__init__(cfg, device=device, show_progress=False)

    def _load_weights_to_model(
        self, model: nn.Module, checkpoint: Optional[dict], cfg: Any
    ) -> None:
        if self._weights is not None:
            content, path = self._weights
            load_weights(model, weights_of(content), path)
            check_finite(model.state_dict(), path)
            names = class_names(cfg, content, number_of_classes(model))
            meta = dict(dataset_meta=dict(classes=names or None))
            checkpoint = dict(state_dict=weights_of(content), meta=meta)
        with warnings.catch_warnings():
            # That an exported file has no checkpoint, and that colours are chosen.
            warnings.simplefilter('ignore')
            super()._load_weights_to_model(model, checkpoint, cfg)
        palette = model.dataset_meta['palette']
        number = number_of_classes(model) or len(model.dataset_meta['classes'] or ())
        if isinstance(palette, np.ndarray):
            # MMDetection draws with tuples.
            model.dataset_meta['palette'] = list(map(tuple, palette.tolist()))
        if not isinstance(palette, str) and len(palette) < number:
            # Those of another data set, of which this one's config was made.
            model.dataset_meta['palette'] = 'random'


def open_checkpoint(
    config: str,
    checkpoint: str,
    device: Optional[str] = None,
    trust: bool = False,
) -> Predictor:
    """Open a config and its checkpoint, sparse or condensed.

    Args:
        config (str): Config of a classifier or a detector.
        checkpoint (str): Its checkpoint.
        device (str, optional): Where to run. Defaults to a GPU if there is one.
        trust (bool): Whether the checkpoint may hold more than tensors and plain
            data. Defaults to False.

    Returns:
        Predictor: Of its task.

    Raises:
        InputError: If one of them cannot be used or they do not belong together.
    """
    cfg = load_config(config)
    content = load_checkpoint(checkpoint, trust)
    if not cfg.get('model'):
        raise InputError(
            f'{config} has no model: the config of a classifier or a detector was '
            'expected.'
        )
    return _open(cfg, (content, checkpoint), device or get_device())


def open_exported_file(
    file: Union[str, Path],
    engine: str = 'onnxruntime',
    threads: Optional[int] = None,
    verify: bool = True,
) -> Predictor:
    """Open an exported classifier or detector.

    Args:
        file (str | Path): The file.
        engine (str): 'onnxruntime' or 'openvino'. Defaults to 'onnxruntime'.
        threads (int, optional): Number of threads. Defaults to the engine's.
        verify (bool): Whether to compare the file with its checksum. Defaults to
            True.

    Returns:
        Predictor: Of its task.

    Raises:
        InputError: If the file or the engine cannot be used.
    """
    return _open(exported_config(file, engine, threads, verify), None, 'cpu')


def _open(
    cfg: Config, weights: Optional[Tuple[Dict[str, Any], str]], device: str
) -> Predictor:
    pipeline = pipeline_of(cfg)
    cfg = copy.deepcopy(cfg)
    # The inferencers know no wrappers.
    cfg.test_dataloader.dataset = dict(tested_datasets(cfg)[0], pipeline=pipeline)
    scope = cfg.get('default_scope')
    if scope == 'mmpretrain':
        init_default_scope(scope)
        return ClassificationPredictor(_classification_inferencer(cfg, weights, device))
    if scope == 'mmdet':
        # Pictures go where they are asked for.
        visualizer = cfg.get('visualizer') or dict(type='DetLocalVisualizer')
        cfg.visualizer = dict(visualizer, vis_backends=None)
        return DetectionPredictor(_ExactDetInferencer(cfg, weights, device))
    raise InputError(
        f'The config has default_scope={scope!r}; mmpretrain, for a classifier, or '
        'mmdet, for a detector, was expected.'
    )


def _classification_inferencer(
    cfg: Config, weights: Optional[Tuple[Dict[str, Any], str]], device: str
) -> ImageClassificationInferencer:
    model = get_model(cfg, pretrained=False)
    inferencer = ImageClassificationInferencer(model.to(device))
    if weights is not None:
        content, path = weights
        load_weights(model, weights_of(content), path)
        check_finite(model.state_dict(), path)
        # It would take those of the config's data set even if they are more or fewer.
        names = class_names(cfg, content, number_of_classes(model))
        inferencer.classes = names or None
    return inferencer
