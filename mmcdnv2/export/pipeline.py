"""A test pipeline as the few steps that any language can do, and back.

A step is a dict: ``resize`` with a ``mode`` ('stretch' to a ``size``; 'fit' into a
``long`` and a ``short`` side; 'short_side' to a ``size``), ``crop`` to a ``size``
around the centre, or ``pad`` to a ``size`` on the right and at the bottom with a
``value`` for each channel, in the order of the input's.
"""

from typing import Any, Dict, List, Tuple

from mmengine.config import Config

from ..config import tested_datasets, type_of
from ..errors import InputError

Steps = List[Dict[str, Any]]

# Transforms that read an image, and that pack it.
_ENDS = ('LoadImageFromFile', 'PackDetInputs', 'PackInputs', 'ImageToTensor')
# Arguments that say how a file is fetched, whatever its content.
_FETCHING = ('backend_args', 'file_client_args')


def _pair(value: Any) -> Tuple[int, int]:
    """Height and width from a number or (height, width)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _sampling(part: Dict[str, Any]) -> Dict[str, Any]:
    antialias = part.get('backend', 'cv2') == 'pillow'
    name = part.get('interpolation', 'bilinear')
    if name not in ('bilinear', 'bicubic'):
        raise InputError(
            f'The test pipeline resizes by {name}, which cannot be written into an '
            'exported file: bilinear and bicubic can.'
        )
    return dict(interpolation=name, antialias=antialias)


def steps_of(cfg: Config) -> Steps:
    """Read the steps of a config's test pipeline.

    Args:
        cfg (Config): Of a classifier or a detector.

    Returns:
        list[dict]: What is done to an image, in order.

    Raises:
        InputError: If a transform has no such step.
    """
    steps: Steps = []
    for part in pipeline_of(cfg):
        kind = type_of(part)
        if kind in _ENDS:
            if part.get('color_type', 'color') != 'color':
                raise InputError(
                    f'The test pipeline reads images as {part["color_type"]}; '
                    'color_type=color can be exported.'
                )
            continue
        if kind == 'Resize' and part.get('scale'):
            scale = part['scale']
            width, height = (scale, scale) if isinstance(scale, int) else scale
            if part.get('keep_ratio'):
                step = dict(
                    mode='fit', long=max(width, height), short=min(width, height)
                )
            else:
                step = dict(mode='stretch', size=(height, width))
            steps.append(dict(op='resize', **step, **_sampling(part)))
        elif kind == 'ResizeEdge' and part.get('edge', 'short') == 'short':
            step = dict(op='resize', mode='short_side', size=part['scale'])
            steps.append(dict(**step, **_sampling(part)))
        elif kind == 'CenterCrop' and not part.get('auto_pad'):
            # It takes (width, height).
            steps.append(dict(op='crop', size=_pair(part['crop_size'])[::-1]))
        elif kind == 'Pad' and part.get('size'):
            value = part.get('pad_val', 0)
            value = value.get('img', 0) if isinstance(value, dict) else value
            value = [value] * 3 if isinstance(value, (int, float)) else list(value)
            # It takes (width, height).
            size = tuple(_pair(part['size']))[::-1]
            steps.append(dict(op='pad', size=size, value=value))
        else:
            raise InputError(
                f'The test pipeline has the transform {kind}, which cannot be written '
                'into an exported file: Resize, ResizeEdge of the short one, '
                'CenterCrop and Pad to a size can.'
            )
    return steps


def pipeline_of(cfg: Config) -> List[Dict[str, Any]]:
    """Return the test pipeline of a config, behind any wrapper of the data set.

    Args:
        cfg (Config): Of a classifier or a detector.

    Returns:
        list[dict]: What is done to an image: the pipeline's transforms except those
        that load annotations.

    Raises:
        InputError: If there is none, or the parts of the test data have different
            ones.
    """
    name = cfg.filename or 'The config'
    found = [
        [part for part in each.get('pipeline') or () if not _loads_annotations(part)]
        for each in tested_datasets(cfg)
    ]
    if not found or not all(found):
        raise InputError(
            f'{name} has no test pipeline, so it does not say how images are prepared: '
            'set test_dataloader.dataset.pipeline.'
        )
    # The last one packs; what it packs may differ.
    contents = [
        [{key: part[key] for key in part if key not in _FETCHING} for part in each[:-1]]
        for each in found
    ]
    if any(each != contents[0] for each in contents):
        raise InputError(
            f'{name} tests on data sets with different pipelines: set '
            'test_dataloader.dataset to the one whose pipeline is meant.'
        )
    return found[0]


def _loads_annotations(part: Dict[str, Any]) -> bool:
    return type_of(part) == 'LoadAnnotations'


def channel_order_of(cfg: Config) -> str:
    """Tell the order of the channels that a test pipeline hands on.

    Args:
        cfg (Config): Of a classifier or a detector.

    Returns:
        str: 'BGR', as mmcv reads files, or 'RGB' where the data set has its images
        in memory, as CIFAR's.
    """
    kinds = {type_of(part) for part in pipeline_of(cfg)}
    return 'RGB' if kinds and 'LoadImageFromFile' not in kinds else 'BGR'


def fixed_size(steps: Steps) -> Any:
    """Size that all images have after the steps.

    Args:
        steps (list[dict]): As :func:`steps_of` returns them.

    Returns:
        tuple[int] | None: Height and width, or None where it depends on the image.
    """
    for step in reversed(steps):
        if step.get('mode') == 'fit' or step.get('mode') == 'short_side':
            return None
        return tuple(step['size'])
    return None


def transforms_of(steps: Steps, is_detector: bool) -> List[Dict[str, Any]]:
    """Turn steps back into transforms of MMDetection or MMPreTrain.

    Args:
        steps (list[dict]): As :func:`steps_of` returns them.
        is_detector (bool): Whose transforms.

    Returns:
        list[dict]: A test pipeline that reads and packs, too.
    """
    transforms: List[Dict[str, Any]] = [dict(type='LoadImageFromFile')]
    for step in steps:
        backend = dict(
            backend='pillow' if step.get('antialias') else 'cv2',
            interpolation=step.get('interpolation', 'bilinear'),
        )
        if step.get('mode') == 'stretch':
            height, width = step['size']
            each = dict(type='Resize', scale=(width, height), **backend)
            each.update(dict(keep_ratio=False) if is_detector else {})
        elif step.get('mode') == 'fit':
            scale = (step['long'], step['short'])
            each = dict(type='Resize', scale=scale, keep_ratio=True, **backend)
        elif step.get('mode') == 'short_side':
            each = dict(type='ResizeEdge', scale=step['size'], edge='short', **backend)
        elif step['op'] == 'crop':
            height, width = step['size']
            each = dict(type='CenterCrop', crop_size=(width, height))
        else:
            height, width = step['size']
            value = dict(img=tuple(step['value']))
            each = dict(type='Pad', size=(width, height), pad_val=value)
        transforms.append(each)
    if is_detector:
        keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
        transforms.append(dict(type='PackDetInputs', meta_keys=keys))
    else:
        transforms.append(dict(type='PackInputs'))
    return transforms
