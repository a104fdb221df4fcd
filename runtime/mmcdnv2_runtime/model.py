"""Runs exported classifiers and detectors on images."""

from pathlib import Path
from typing import Dict, List, Optional, Sequence, Union

import numpy as np
import onnxruntime

from .errors import ImageError, ModelError, first_line
from .images import ImageLike, load_image
from .model_file import read_model_file
from .preprocess import Prepared, parse_steps, prepare
from .results import Classification, Detections
from .session import plain_options, session_options

# ONNX Runtime's own messages come as exceptions, too; what is fatal is still told.
_SILENT = 4


class _Model:
    """An exported file, ready to run."""

    task: str
    others: Dict[str, str] = {
        'classification': 'a classifier; use Classifier',
        'detection': 'a detector; use Detector',
        'features': 'a backbone, which names nothing; run it in ONNX Runtime, with '
        'session_options()',
    }

    def __init__(
        self,
        path: Union[str, Path],
        threads: Optional[int] = None,
        verify: bool = True,
    ) -> None:
        self.file = read_model_file(path, verify)
        if self.file.task != self.task:
            what = self.others.get(self.file.task, f'for the task {self.file.task}')
            raise ModelError(f'{path} is {what}.')
        if self.file.raw:
            raise ModelError(
                f'{path} holds the raw outputs of its heads; export it without --raw, '
                'or run it in ONNX Runtime, with session_options().'
            )
        self._steps = parse_steps(self.file.steps)
        options = (session_options if self.file.native else plain_options)(threads)
        options.log_severity_level = _SILENT
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=['CPUExecutionProvider']
            )
        # ONNX Runtime's errors have no common class.
        except Exception as error:
            raise ModelError(
                f'{path}, written by mmcdnv2 {self.file.version}, cannot be run by '
                f'onnxruntime {onnxruntime.__version__} and this mmcdnv2-runtime; '
                f'update them ({first_line(error)}).'
            ) from error
        self._outputs = [output.name for output in self.session.get_outputs()]

    def _name(self, label: int) -> str:
        names = self.file.classes
        return names[label] if 0 <= label < len(names) else str(label)

    def _prepare(self, image: np.ndarray) -> Prepared:
        """Make the network's input of an image in the order RGB."""
        if self.file.channel_order == 'BGR':
            image = image[:, :, ::-1]
        prepared = prepare(image, self._steps)
        for name, size, wanted in zip(
            ('height', 'width'), prepared.pixels.shape, self.file.size
        ):
            if name not in self.file.dynamic and size != wanted:
                raise ImageError(
                    f'An image of {image.shape[1]}x{image.shape[0]} was given, but '
                    f'{self.file.path} takes images with a {name} of {wanted} pixels '
                    'only; resize it, or export the model with a dynamic size.'
                )
        return prepared

    def _run(self, inputs: Sequence[np.ndarray]) -> Dict[str, np.ndarray]:
        """Run the network on images of one size.

        Args:
            inputs (Sequence[np.ndarray]): uint8, (H, W, 3) each.

        Returns:
            dict[str, np.ndarray]: Its outputs by their names.
        """
        shapes = sorted({pixels.shape[:2] for pixels in inputs})
        if len(shapes) > 1:
            sizes = ', '.join(f'{width}x{height}' for height, width in shapes)
            raise ImageError(
                'Images of one size were expected, but after the preprocessing they '
                f'have {sizes}; run them one by one.'
            )
        if len(inputs) > 1 and 'batch' not in self.file.dynamic:
            raise ModelError(
                f'{self.file.path} takes one image at a time; export it with a dynamic '
                'batch.'
            )
        batch = np.empty((len(inputs), 3, *shapes[0]), self.file.dtype)
        for target, pixels in zip(batch, inputs):
            target[:] = pixels.transpose(2, 0, 1)
        try:
            outputs = self.session.run(self._outputs, {'images': batch})
        except Exception as error:
            height, width = shapes[0]
            raise ImageError(
                f'{self.file.path} failed on an input of {width}x{height} '
                f'({first_line(error)}).'
            ) from error
        return dict(zip(self._outputs, outputs))


class Classifier(_Model):
    """An exported classifier.

    Args:
        path (str | Path): The file.
        threads (int, optional): How many threads run it. Defaults to None, one
            for each core.
        verify (bool): Whether to compare the file with its checksum. Defaults
            to True.

    Raises:
        ModelError: If it cannot be run; the message says why.
    """

    task = 'classification'

    def __call__(self, image: ImageLike, order: Optional[str] = None) -> Classification:
        """Classify an image.

        Args:
            image (str | Path | Image.Image | np.ndarray): A file, an image of
                Pillow, or an array of uint8.
            order (str, optional): The channels of an array, 'RGB' or 'BGR'.
                Defaults to None.

        Returns:
            Classification: The scores of all classes.

        Raises:
            ImageError: If the image cannot be read, or its size does not fit.
        """
        return self.batch([image], order)[0]

    def batch(
        self, images: Sequence[ImageLike], order: Optional[str] = None
    ) -> List[Classification]:
        """Classify several images at once.

        Args:
            images (Sequence): As for one. After the preprocessing they must be
                of one size.
            order (str, optional): The channels of arrays. Defaults to None.

        Returns:
            list[Classification]: One for each.

        Raises:
            ImageError: As for one, or if they differ in size.
            ModelError: If the file takes one image at a time.
        """
        if not images:
            return []
        inputs = [self._prepare(load_image(image, order)).pixels for image in images]
        scores = self._run(inputs)['scores']
        names = [self._name(label) for label in range(scores.shape[1])]
        return [Classification(row, names) for row in scores]


class Detector(_Model):
    """An exported detector.

    Args:
        path (str | Path): The file.
        threads (int, optional): How many threads run it. Defaults to None, one
            for each core.
        verify (bool): Whether to compare the file with its checksum. Defaults
            to True.

    Raises:
        ModelError: If it cannot be run; the message says why.
    """

    task = 'detection'

    def __call__(
        self,
        image: ImageLike,
        order: Optional[str] = None,
        score_threshold: float = 0.0,
    ) -> Detections:
        """Find the objects in an image.

        Args:
            image (str | Path | Image.Image | np.ndarray): A file, an image of
                Pillow, or an array of uint8.
            order (str, optional): The channels of an array, 'RGB' or 'BGR'.
                Defaults to None.
            score_threshold (float): Boxes of lower scores are left out.
                Defaults to 0, all that the file was exported with.

        Returns:
            Detections: The boxes.

        Raises:
            ImageError: If the image cannot be read, or its size does not fit.
        """
        return self.batch([image], order, score_threshold)[0]

    def batch(
        self,
        images: Sequence[ImageLike],
        order: Optional[str] = None,
        score_threshold: float = 0.0,
    ) -> List[Detections]:
        """Find the objects in several images at once.

        Args:
            images (Sequence): As for one. After the preprocessing they must be
                of one size.
            order (str, optional): The channels of arrays. Defaults to None.
            score_threshold (float): As for one. Defaults to 0.

        Returns:
            list[Detections]: One for each.

        Raises:
            ImageError: As for one, or if they differ in size.
            ModelError: If the file takes one image at a time.
        """
        if not images:
            return []
        sizes = []
        prepared = []
        for image in images:
            pixels = load_image(image, order)
            sizes.append((pixels.shape[0], pixels.shape[1]))
            prepared.append(self._prepare(pixels))
        outputs = self._run([item.pixels for item in prepared])
        masks = outputs.get('masks')
        results = []
        for index, (item, size) in enumerate(zip(prepared, sizes)):
            # What follows fills up to a fixed number of boxes.
            valid = slice(int(outputs['counts'][index]))
            boxes, scores, labels = (
                outputs[name][index, valid] for name in ('boxes', 'scores', 'labels')
            )
            boxes = (boxes + np.tile(item.offset, 2)) / np.tile(item.scale, 2)
            ranked = np.argsort(-scores, kind='stable')
            results.append(
                Detections(
                    boxes.astype(np.float32),
                    scores,
                    labels,
                    [self._name(label) for label in labels.tolist()],
                    size,
                    None if masks is None else masks[index, valid],
                    self.file.mask_threshold,
                ).select(ranked[scores[ranked] >= score_threshold])
            )
        return results
