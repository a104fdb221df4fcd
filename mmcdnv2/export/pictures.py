"""Images that an exported file is compared on, as the test pipeline leaves them."""

import copy
import inspect
import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS

from ..builder import input_shape_of, read_image
from ..config import tested_datasets
from ..errors import InputError
from .pipeline import channel_order_of, pipeline_of, transforms_of

# How many, if none are given.
NUM_IMAGES = 3


@dataclass(frozen=True)
class Picture:
    """An image as the test pipeline leaves it.

    Attributes:
        pixels (np.ndarray): Shape (3, H, W), uint8.
        source (str): Where it is from.
        meta (dict): ``ori_shape`` and ``scale_factor``, as MMDetection has them;
            empty if it was not scaled.
    """

    pixels: np.ndarray
    source: str
    meta: Dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> Tuple[int, int]:
        """tuple[int]: Height and width."""
        height, width = self.pixels.shape[1:]
        return height, width


def usual_size(cfg: Config, steps: List[Dict], files: Sequence[str]) -> Tuple[int, int]:
    """Size of the test data, where the pipeline does not fix it.

    Args:
        cfg (Config): Of a classifier or a detector.
        steps (list[dict]): Those of its test pipeline.
        files (Sequence[str]): Image files that are compared on.

    Returns:
        tuple[int]: Height and width; those of an image if all stay as they are.

    Raises:
        InputError: If that cannot be read.
    """
    if steps or not files:
        return input_shape_of(cfg)
    height, width = read_image(files[0]).shape[:2]
    return height, width


def load_pictures(
    cfg: Config,
    steps: List[Dict],
    files: Sequence[str],
    size: Tuple[int, int],
    dynamic: Sequence[str],
    channel_order: str,
) -> List[Picture]:
    """Take images through the test pipeline.

    Args:
        cfg (Config): Of a classifier or a detector.
        steps (list[dict]): Those of its test pipeline.
        files (Sequence[str]): Image files; what photographs there are if none.
        size (tuple[int]): Height and width that the file takes.
        dynamic (Sequence[str]): Which dimensions may be others.
        channel_order (str): 'BGR' or 'RGB', as the network takes them.

    Returns:
        list[Picture]: At least one.

    Raises:
        InputError: If one cannot be read or is of another size.
    """
    if not files:
        files = photographs()[:NUM_IMAGES]
        # Without steps the images must come in the size that the network takes.
        sampling = dict(interpolation='bilinear', antialias=False)
        steps = steps or [dict(op='resize', mode='stretch', size=size, **sampling)]
    pipeline = _steps_pipeline(cfg, steps)
    pictures = [_picture(pipeline, file, channel_order) for file in files]
    if not pictures:
        pixels = np.random.RandomState(0).randint(0, 256, (3, *size), np.uint8)
        pictures.append(Picture(pixels, 'random pixels'))
    open_sides = {'height', 'width'} <= set(dynamic)
    for each in pictures:
        if not open_sides and each.size != tuple(size):
            raise InputError(
                f'{each.source} has {each.size[0]} x {each.size[1]} '
                f'pixels after the test pipeline, the file takes {size[0]} x '
                f'{size[1]}: choose that input shape, or let height and width '
                'be dynamic.'
            )
    return pictures


def check_steps(cfg: Config, steps: List[Dict], files: Sequence[str]) -> None:
    """Check that steps give the pixels that the config's own test pipeline gives.

    Args:
        cfg (Config): Of a classifier or a detector.
        steps (list[dict]): Those of its test pipeline.
        files (Sequence[str]): Image files; what photographs there are if none.

    Raises:
        InputError: If an image cannot be read or its pixels differ.
    """
    channel_order = channel_order_of(cfg)
    ours = _steps_pipeline(cfg, steps)
    own = Compose([TRANSFORMS.build(each) for each in pipeline_of(cfg)])
    for file in list(files) or photographs()[:NUM_IMAGES]:
        actual = _picture(ours, file, channel_order).pixels
        given: Dict[str, Any] = {}
        if channel_order == 'RGB':
            # The data set has its images in memory.
            image = np.ascontiguousarray(read_image(file)[..., ::-1])
            given = dict(
                img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2]
            )
        expected = own(dict(given, img_path=file, img_id=0))['inputs'].numpy()
        # Decoders differ by one grey level, and so do the roundings of floats.
        if actual.shape != expected.shape or (
            np.abs(actual.astype(float) - expected).max() > 1
        ):
            raise InputError(
                f'The test pipeline gives other pixels of {file} than the steps that '
                f'would be written into the file, {steps}: leave out the options of '
                'its transforms that these steps lack.'
            )


def _steps_pipeline(cfg: Config, steps: List[Dict]) -> Compose:
    """Build the transforms that steps stand for."""
    is_detector = cfg.get('default_scope') == 'mmdet'
    return Compose(
        [TRANSFORMS.build(each) for each in transforms_of(steps, is_detector)]
    )


def _picture(pipeline: Compose, file: str, channel_order: str) -> Picture:
    """Take an image file through a pipeline that reads it as BGR."""
    try:
        packed = pipeline(dict(img_path=file, img_id=0))
    except Exception as error:
        # The decoder has its own kinds of errors.
        raise InputError(f'{file} is not an image that can be read.') from error
    pixels = packed['inputs'].numpy()
    if channel_order == 'RGB':
        pixels = np.ascontiguousarray(pixels[::-1])
    sample = packed['data_samples']
    # MMPreTrain's samples have no scale.
    keys = ('ori_shape', 'scale_factor') if 'scale_factor' in sample else ()
    return Picture(pixels, str(file), {key: sample.get(key) for key in keys})


def test_images(cfg: Config) -> List[str]:
    """Find images of a config's test data.

    Args:
        cfg (Config): Of a classifier or a detector.

    Returns:
        list[str]: A few files, none if the data are not on this machine.
    """
    for dataset in tested_datasets(cfg):
        paths = _images_of(copy.deepcopy(dataset))
        if paths:
            return paths
    return []


def _images_of(dataset: Dict[str, Any]) -> List[str]:
    """Find images of a data set, none if it cannot be built here."""
    try:
        kind = dataset['type']
        with DATASETS.switch_scope_and_registry(None) as registry:
            known = registry.get(kind) if isinstance(kind, str) else kind
        if 'download' in inspect.signature(known).parameters:
            dataset['download'] = False
        built = DATASETS.build(dataset)
        number = min(NUM_IMAGES, len(built))
        # Not the first ones: data sets are often sorted.
        places = [len(built) * (2 * i + 1) // (2 * number) for i in range(number)]
        items = [built.get_data_info(i) for i in places]
    except Exception:
        # Data that is not on this machine is no reason not to export.
        return []
    paths = [each.get('img_path') for each in items]
    return [path for path in paths if path and os.path.isfile(path)]


def photographs() -> List[str]:
    """Find the photographs that scikit-learn brings.

    Returns:
        list[str]: Image files, none where it is not installed.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        return []
    return list(load_sample_images().filenames)
