"""Build a config's model and an input for it."""

import copy
import os
from typing import Any, Optional, Tuple

import mmcv
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.models import BaseClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from .checkpoint import unwrap_model
from .config import type_of, typed_dicts
from .errors import InputError


def build_model(cfg: Config) -> nn.Module:
    """Build a config's model as the runner would, in evaluation mode.

    Args:
        cfg (Config): Config of a classifier or a detector.

    Returns:
        nn.Module: The model, weights as they are built, without a wrapper for
        test-time augmentation.

    Raises:
        InputError: If the config has no model.
    """
    if 'model' not in cfg:
        raise InputError(
            f'{cfg.filename} has no model: pass the config of a classifier or a '
            'detector.'
        )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = copy.deepcopy(cfg.model)
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    # Test-time augmentation is for the runner alone.
    built = unwrap_model(MODELS.build(model))
    # By itself, as that of some of OpenMMLab's models returns nothing.
    built.eval()
    return built


class TensorMode(nn.Module):
    """Wrap a model as a function of its images only.

    Args:
        model (nn.Module): A classifier or a detector.
        samples (list): The data samples to call it with.
    """

    def __init__(self, model: nn.Module, samples: list) -> None:
        super().__init__()
        self.model = model
        self.samples = samples

    def forward(self, inputs: Tensor) -> Any:
        return self.model(inputs, self.samples, mode='tensor')


def input_shape_of(cfg: Config) -> Tuple[int, int]:
    """Return the size of a config's test images.

    Args:
        cfg (Config): Config of a classifier or a detector.

    Returns:
        tuple[int]: Height and width in pixels; the largest ones if the ratio is
        kept. 224 x 224 if the config does not define them.
    """
    loader = cfg.get('test_dataloader') or {}
    shape = (224, 224)
    # The dataset precedes its transforms, and the last transform decides.
    for part in typed_dicts(loader.get('dataset', {})):
        # Crop sizes and scales are (width, height).
        if type_of(part).startswith('CIFAR'):
            shape = (32, 32)
        elif type_of(part) == 'CenterCrop':
            size = part['crop_size']
            shape = (size, size) if isinstance(size, int) else tuple(size)[::-1]
        elif type_of(part) == 'Resize' and part.get('scale'):
            scale = part['scale']
            shape = (scale, scale) if isinstance(scale, int) else tuple(scale)[::-1]
    return shape


def make_inputs(
    model: nn.Module,
    cfg: Config,
    image: Optional[str] = None,
    input_shape: Optional[Tuple[int, int]] = None,
) -> Tuple[Tensor, list]:
    """Return a preprocessed batch of one image and its data sample.

    Args:
        model (nn.Module): A classifier or a detector.
        cfg (Config): Its config.
        image (str, optional): Image file. Defaults to random pixels.
        input_shape (tuple[int], optional): Height and width to scale the image
            to. Defaults to :func:`input_shape_of`.

    Returns:
        tuple[Tensor, list]: Images, shape (1, 3, H, W), padded by the model's
        preprocessor, and one data sample.

    Raises:
        InputError: If the image cannot be read or the shape is too small.
    """
    height, width = input_shape or input_shape_of(cfg)
    if min(height, width) < 32:
        raise InputError(
            f'The input must be at least 32 pixels high and wide, got {height} x '
            f'{width} pixels.'
        )
    if image is None:
        rng = np.random.RandomState(0)
        pixels = rng.randint(0, 256, (height, width, 3), dtype=np.uint8)
    else:
        pixels = mmcv.imresize(read_image(image), (width, height))
    return prepare(model, pixels.transpose(2, 0, 1))


def read_image(image: str) -> np.ndarray:
    """Read an image file.

    Args:
        image (str): Its path.

    Returns:
        np.ndarray: Pixels, shape (H, W, 3), BGR.

    Raises:
        InputError: If the file is missing or cannot be decoded.
    """
    pixels = mmcv.imread(image) if os.path.isfile(image) else None
    if pixels is None:
        raise InputError(f'{image} is not an image that can be read.')
    return pixels


def prepare(model: nn.Module, pixels: np.ndarray, **meta: Any) -> Tuple[Tensor, list]:
    """Prepare an image as a model's preprocessor does.

    Args:
        model (nn.Module): A classifier or a detector.
        pixels (np.ndarray): Shape (3, H, W), as the test pipeline leaves them.
        meta: ``ori_shape`` and ``scale_factor`` of an image that was scaled.

    Returns:
        tuple[Tensor, list]: Images, shape (1, 3, H, W), padded by the model's
        preprocessor, and one data sample.
    """
    shape = pixels.shape[1:]
    sample = DataSample() if isinstance(model, BaseClassifier) else DetDataSample()
    known = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0))
    sample.set_metainfo({**known, **meta})
    batch = dict(inputs=[torch.from_numpy(pixels)], data_samples=[sample])
    batch = model.data_preprocessor(batch, training=False)
    return batch['inputs'], batch['data_samples']
