"""Exported files in the place of the models that they were made from."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, Union

import numpy as np
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.models.utils.misc import samplelist_boxtype2tensor
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample
from torch import Tensor

from ..config import type_of
from ..errors import InputError
from ..registry import register_model
from .engines import check_packages
from .pipeline import transforms_of

Images = Union[Tensor, Sequence[Tensor]]


class Unchanged(BaseDataPreprocessor):
    """Leave images as the pipeline made them, where it left them.

    A file prepares its images itself, and its engine takes them from the CPU.
    """

    def forward(self, data: Any, training: bool = False) -> Any:
        return data


class ExportedModel(BaseModel):
    """An exported file as a model that predicts.

    Args:
        file (str | Path): The file.
        engine (str): 'onnxruntime' or 'openvino'. Defaults to 'onnxruntime'.
        threads (int, optional): Number of threads. Defaults to the engine's.
        data_preprocessor (dict, optional): Taken, as runners hand over what a config
            has for its network, and left alone: the file does that itself.
        verify (bool): Whether to compare the file with its checksum. Defaults to
            True.
        backbone (dict, optional): Ignored. MMDetection's ``init_detector`` expects
            every model's config to have one.

    Raises:
        InputError: If the file or the engine cannot be used.
    """

    # What the metadata call a file that fits.
    task = ''

    def __init__(
        self,
        file: Union[str, Path],
        engine: str = 'onnxruntime',
        threads: Optional[int] = None,
        data_preprocessor: Optional[Dict[str, Any]] = None,
        verify: bool = True,
        backbone: Optional[Dict[str, Any]] = None,
    ) -> None:
        super().__init__(Unchanged())
        metadata = _check(file, verify, self.task)
        # The package that it needs may be missing where nothing is exported.
        from .exported_file import ExportedFile

        self.file = ExportedFile(file, engine, threads, metadata)
        # Not to be looked up as if COCO's were meant, even where they are unknown.
        self._known = dict(classes=metadata.classes or None)
        self._meta: Dict[str, Any] = dict(self._known)

    @property
    def dataset_meta(self) -> Dict[str, Any]:
        """What is known of the data, with the file's classes.

        Inferencers set what they take for the classes of a model without a
        checkpoint, and colours.
        """
        return self._meta

    @dataset_meta.setter
    def dataset_meta(self, given: Optional[Mapping[str, Any]]) -> None:
        self._meta = {**(given or {}), **self._known}

    # MMPreTrain's name for it.
    _dataset_meta = dataset_meta

    def forward(
        self,
        inputs: Images,
        data_samples: Optional[List[Any]] = None,
        mode: str = 'tensor',
    ) -> Any:
        """Run the file.

        Args:
            inputs (Tensor | list[Tensor]): Images of shape (3, H, W) with the
                channels that mmcv loads, BGR, as the test pipeline makes them.
            data_samples (list, optional): One for each image, to be completed.
            mode (str): 'tensor' for the file's own outputs, 'predict' for
                completed data samples. Defaults to 'tensor'.

        Returns:
            list: The data samples, or a dict of outputs for each image.

        Raises:
            InputError: If the file takes no such images, or in another mode.
        """
        if mode not in ('tensor', 'predict'):
            raise InputError(
                f'{self.file.path} cannot be trained: train the model that it was '
                'exported from.'
            )
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        return [
            {name: torch.as_tensor(value) for name, value in outputs.items()}
            for outputs in self._run(inputs)
        ]

    def predict(
        self, inputs: Images, data_samples: Optional[List[Any]] = None
    ) -> List[Any]:
        """Complete the data samples; arguments as of :meth:`forward`."""
        raise NotImplementedError

    def check_classes(
        self, dataset_meta: Union[Mapping[str, Any], Sequence[Mapping[str, Any]]]
    ) -> None:
        """Reject a data set with other classes.

        Args:
            dataset_meta (Mapping | Sequence[Mapping]): The data set's, or those of the
                parts of a concatenated one.

        Raises:
            InputError: If both name their classes, and others.
        """
        if not isinstance(dataset_meta, Mapping):
            for each in dataset_meta:
                self.check_classes(each)
            return
        own, wanted = self._known['classes'], dataset_meta.get('classes')
        if own is None or wanted is None or list(own) == list(wanted):
            return
        if len(own) != len(wanted):
            found = f'{len(own)} classes and the data set {len(wanted)}'
        else:
            i = next(i for i, each in enumerate(own) if each != wanted[i])
            found = f'{own[i]!r} as class {i} and the data set {wanted[i]!r}'
        raise InputError(
            f'{self.file.path} has {found}: test it by the config that it was '
            'exported from.'
        )

    def _run(self, inputs: Images) -> List[Dict[str, np.ndarray]]:
        """Run on images of any sizes; return the outputs of each."""
        images = [self._prepared(image) for image in inputs]
        together = (
            'batch' in self.file.metadata.input.dynamic
            and len({image.shape for image in images}) == 1
        )
        batches = [np.stack(images)] if together else [image[None] for image in images]
        return [
            {name: value[i] for name, value in outputs.items()}
            for batch, outputs in ((batch, self.file(batch)) for batch in batches)
            for i in range(len(batch))
        ]

    def _prepared(self, image: Tensor) -> np.ndarray:
        """Bring an image into the form that the file takes."""
        pixels = image.cpu().numpy()
        self.file.check_pixels(pixels[None])
        if self.file.metadata.input.channel_order == 'RGB':
            pixels = pixels[::-1]
        return self._padded(pixels)

    def _pad_size(self, image: Any) -> Optional[Tuple[int, int]]:
        """Return the size that an image has to be padded to, None if it does not."""
        metadata = self.file.metadata
        last = metadata.preprocess[-1] if metadata.preprocess else {}
        fixed = {'height', 'width'} - set(metadata.input.dynamic)
        if last.get('op') != 'pad' or not fixed:
            return None
        height, width = image.shape[-2:]
        size = max(height, last['size'][0]), max(width, last['size'][1])
        return None if size == (height, width) else size

    def _padded(self, pixels: np.ndarray) -> np.ndarray:
        """Pad an image as the file's own pipeline does, if it takes one size."""
        size = self._pad_size(pixels)
        if size is None:
            return pixels
        padded = np.empty((3, *size), pixels.dtype)
        value = self.file.metadata.preprocess[-1]['value']
        padded[:] = np.reshape(value, (3, 1, 1))
        padded[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        return padded


@register_model
class ExportedClassifier(ExportedModel):
    """An exported classifier, for MMPreTrain's runner and inferencer.

    Arguments as of :class:`ExportedModel`.
    """

    task = 'classification'

    def predict(
        self, inputs: Images, data_samples: Optional[List[DataSample]] = None
    ) -> List[DataSample]:
        """Complete the data samples by ``pred_score`` and ``pred_label``."""
        found = self._run(inputs)
        samples = data_samples or [DataSample() for _ in found]
        for outputs, sample in zip(found, samples):
            scores = torch.from_numpy(outputs['scores'])
            sample.set_pred_score(scores).set_pred_label(scores.argmax(0, keepdim=True))
        return samples


@register_model
class ExportedDetector(ExportedModel):
    """An exported detector, for MMDetection's runner and inferencer.

    Arguments as of :class:`ExportedModel`.
    """

    task = 'detection'

    def predict(
        self,
        inputs: Images,
        data_samples: Optional[List[DetDataSample]] = None,
        rescale: bool = True,
    ) -> List[DetDataSample]:
        """Complete the data samples by ``pred_instances``.

        Args:
            inputs (Tensor | list[Tensor]): As in :meth:`forward`.
            data_samples (list[DetDataSample], optional): As there.
            rescale (bool): Whether boxes and masks are those of the image before it
                was scaled. Defaults to True.

        Returns:
            list[DetDataSample]: With ``bboxes``, ``scores``, ``labels`` and, if the
            file has them, ``masks``. A box may end in the padding of the pipeline,
            as MMDetection's do.
        """
        found = self._run(inputs)
        samples = data_samples or [DetDataSample() for _ in found]
        # As evaluators and visualisers expect the annotations, too.
        samplelist_boxtype2tensor(samples)
        for image, outputs, sample in zip(inputs, found, samples):
            size, scale = _size_and_scale(sample, image)
            if not rescale:
                size = (round(size[0] * scale[1]), round(size[1] * scale[0]))
                scale = (1.0, 1.0)
            height, width = image.shape[-2:]
            if self._pad_size(image) is not None:
                # The graph clipped to what the file padded here.
                limit = np.array((width, height, width, height), np.float32)
                outputs = dict(outputs, boxes=np.minimum(outputs['boxes'], limit))
            threshold = self.file.metadata.mask_threshold
            sample.pred_instances = to_instances(outputs, size, scale, threshold)
        return samples


def _size_and_scale(
    sample: DetDataSample, image: Tensor
) -> Tuple[Tuple[int, int], Tuple[float, float]]:
    """Height and width before scaling, and by what width and height were scaled."""
    # Padding, which the pipeline may have done since then, scales nothing.
    scale = tuple(sample.get('scale_factor', (1.0, 1.0)))
    size = sample.get('ori_shape')
    if size is None:
        height, width = image.shape[-2:]
        size = (round(height / scale[1]), round(width / scale[0]))
    return tuple(size[:2]), scale


def to_instances(
    outputs: Mapping[str, np.ndarray],
    size: Tuple[int, int],
    scale: Tuple[float, float],
    mask_threshold: float = 0.5,
) -> InstanceData:
    """Make MMDetection's instances of a file's outputs.

    Args:
        outputs (Mapping[str, np.ndarray]): Those of one image.
        size (tuple[int]): Height and width of the image before it was scaled.
        scale (tuple[float]): What its width and height were multiplied by.
        mask_threshold (float): From which probability on a pixel belongs to a mask.
            Defaults to 0.5.

    Returns:
        InstanceData: In pixels of the image before it was scaled.
    """
    number = int(outputs['counts'])
    height, width = size
    boxes = torch.from_numpy(outputs['boxes'][:number])
    boxes = boxes / boxes.new_tensor(scale).repeat(2)
    instances = InstanceData(
        bboxes=boxes,
        scores=torch.from_numpy(outputs['scores'][:number]),
        labels=torch.from_numpy(outputs['labels'][:number]),
    )
    if 'masks' in outputs:
        masks = torch.zeros((number, height, width), dtype=torch.bool)
        likelihoods = torch.from_numpy(outputs['masks'][:number, None])
        # A mask belongs to its whole box; what is beyond the image is cut off.
        for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
                continue
            # One by one, so that only the pixels of its box are looked at.
            each, place = _do_paste_mask(
                likelihoods[i : i + 1], boxes[i : i + 1], height, width
            )
            masks[(slice(i, i + 1), *place)] = each >= mask_threshold
        instances.masks = masks
    return instances


def _check(file: Union[str, Path], verify: bool, *tasks: str) -> Any:
    """Refuse a file of which no predictions can be made; return its metadata."""
    check_packages('onnx')
    from .metadata import read_metadata

    metadata = read_metadata(file, verify)
    given = metadata.input
    if metadata.task not in tasks:
        raise InputError(
            f'{file} was exported for {metadata.task}; a file for '
            f'{" or ".join(tasks)} was expected.'
        )
    if metadata.raw:
        raise InputError(
            f'{file} returns what its heads return, of which no predictions are made '
            'here: export it without --raw.'
        )
    known = given.layout == 'NCHW' and given.dtype in ('uint8', 'float32')
    if not known or given.channel_order not in ('BGR', 'RGB'):
        raise InputError(
            f'{file} takes {given.dtype} images in {given.layout} and '
            f'{given.channel_order}; uint8 or float32, NCHW and BGR or RGB were '
            'expected.'
        )
    return metadata


def use_exported_file(
    cfg: Config,
    file: Union[str, Path],
    engine: str = 'onnxruntime',
    threads: Optional[int] = None,
    verify: bool = True,
) -> None:
    """Put an exported file in the place of a config's model, to test it.

    Args:
        cfg (Config): Changed in place: its model, what would be loaded into it, and
            hooks that keep averages of its weights.
        file (str | Path): The file.
        engine (str): 'onnxruntime' or 'openvino'. Defaults to 'onnxruntime'.
        threads (int, optional): Number of threads. Defaults to the engine's.
        verify (bool): Whether to compare the file with its checksum. Defaults to
            True.

    Raises:
        InputError: If the file is damaged, raw or of another task.
    """
    is_classifier = cfg.get('default_scope') == 'mmpretrain'
    kind = ExportedClassifier if is_classifier else ExportedDetector
    _check(file, verify, kind.task)
    _use(cfg, kind, file, engine, threads, verify)


def _use(
    cfg: Config,
    kind: Type[ExportedModel],
    file: Union[str, Path],
    engine: str,
    threads: Optional[int],
    verify: bool,
) -> None:
    """Put a file that was checked in the place of a config's model."""
    cfg.model = dict(
        type=kind.__name__,
        file=str(file),
        engine=engine,
        threads=threads,
        verify=verify,
    )
    cfg.load_from, cfg.resume = None, False
    cfg.custom_hooks = [
        hook for hook in cfg.get('custom_hooks') or [] if type_of(hook) != 'EMAHook'
    ]


def exported_config(
    file: Union[str, Path],
    engine: str = 'onnxruntime',
    threads: Optional[int] = None,
    verify: bool = True,
) -> Config:
    """Make the config of an exported file, for an inferencer.

    Args:
        file (str | Path): The file.
        engine (str): 'onnxruntime' or 'openvino'. Defaults to 'onnxruntime'.
        threads (int, optional): Number of threads. Defaults to the engine's.
        verify (bool): Whether to compare the file with its checksum. Defaults to
            True.

    Returns:
        Config: With the file as its model and the test pipeline that it tells.

    Raises:
        InputError: If the file cannot be used, or is no complete classifier or
            detector.
    """
    metadata = _check(file, verify, ExportedClassifier.task, ExportedDetector.task)
    is_detector = metadata.task == ExportedDetector.task
    cfg = Config(
        dict(
            default_scope='mmdet' if is_detector else 'mmpretrain',
            test_dataloader=dict(
                dataset=dict(
                    type='BaseDetDataset' if is_detector else 'CustomDataset',
                    pipeline=transforms_of(metadata.preprocess, is_detector),
                )
            ),
        )
    )
    if is_detector:
        cfg.visualizer = dict(type='DetLocalVisualizer', name='visualizer')
    kind = ExportedDetector if is_detector else ExportedClassifier
    _use(cfg, kind, file, engine, threads, verify)
    cfg.model.backbone = dict()
    return cfg
