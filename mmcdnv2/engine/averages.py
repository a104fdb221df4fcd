"""Finds the sparse layers that are averages of other layers."""

import logging
from typing import Dict, Iterator, List, Sequence, Tuple

from mmdet.engine.hooks import MeanTeacherHook
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseAveragedModel
from torch import nn

from ..errors import InputError
from ..layers import SparseConv2d, sparse_layers


def averaged_layers(
    model: nn.Module, hooks: Sequence[Hook], averages: Dict[str, str]
) -> Dict[SparseConv2d, SparseConv2d]:
    """Find the sparse layers of a model that are averages of others of its.

    Recognised are the teacher of mmdet's :class:`MeanTeacherHook` and, as in
    mmpretrain's momentum encoders, MMEngine's averaged models.

    Args:
        model (nn.Module): The model that is trained.
        hooks (Sequence[Hook]): The runner's hooks.
        averages (dict[str, str]): More averages, as names of submodules, by
            names of what they are an average of.

    Returns:
        dict[SparseConv2d, SparseConv2d]: The trained layer by its average.

    Raises:
        InputError: If there is no such submodule, the two do not have the same
            sparse layers, or the averages go round in a circle.
    """
    pairs = dict(averages)
    if any(isinstance(hook, MeanTeacherHook) for hook in hooks):
        pairs.setdefault('teacher', 'student')
    originals: Dict[SparseConv2d, SparseConv2d] = {}
    for average, original in pairs.items():
        originals.update(_named_pairs(model, average, original))

    averaged = {
        f'{name}.module': module.module
        for name, module in model.named_modules()
        if isinstance(module, BaseAveragedModel)
    }
    copies = [*averaged.values(), *map(model.get_submodule, pairs)]
    inside = {part for copy in copies for part in copy.modules()}
    trained = [part for part in model.modules() if part not in inside]
    for whole in averaged.items():
        for name, part, alike in _parts(*whole, trained):
            if originals.keys() >= set(sparse_layers(part).values()):
                continue
            if len(alike) == 1:
                originals.update(_pairs(part, alike[0]))
                continue
            print_log(
                f'SparsificationHook cannot tell what {name} is an average of, as '
                f'{len(alike)} parts of the model have its structure, and prunes it '
                f'by its own weights: say it with averages={{{name!r}: ...}}.',
                logger='current',
                level=logging.WARNING,
            )
    return {average: _trained(average, originals) for average in originals}


def _named_pairs(
    model: nn.Module, average: str, original: str
) -> Dict[SparseConv2d, SparseConv2d]:
    """Pair the sparse layers of two submodules that were named."""
    try:
        parts = [model.get_submodule(name) for name in (average, original)]
    except AttributeError as error:
        raise InputError(
            f'SparsificationHook was told that {average!r} is an average of '
            f'{original!r}, but the model does not have both: {error}.'
        ) from error
    shapes = [
        {name: layer.mask.shape for name, layer in sparse_layers(part).items()}
        for part in parts
    ]
    if shapes[0] != shapes[1]:
        raise InputError(
            f'{average!r} cannot be an average of {original!r}: they have not the '
            'same sparse layers.'
        )
    return _pairs(*parts)


def _pairs(average: nn.Module, original: nn.Module) -> Dict[SparseConv2d, SparseConv2d]:
    originals = sparse_layers(original)
    return {layer: originals[name] for name, layer in sparse_layers(average).items()}


def _parts(
    name: str, copy: nn.Module, trained: List[nn.Module]
) -> Iterator[Tuple[str, nn.Module, List[nn.Module]]]:
    """Yield the parts of an averaged module and the trained ones alike."""
    shapes = _shapes(copy)
    alike = [
        part for part in trained if type(part) is type(copy) and _shapes(part) == shapes
    ]
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    if alike or not isinstance(copy, containers):
        yield name, copy, alike
        return
    # Often the container was made for the averaged model alone, as in
    # ExponentialMovingAverage(nn.Sequential(self.backbone, self.neck)).
    for key, child in copy.named_children():
        yield from _parts(f'{name}.{key}', child, trained)


def _shapes(module: nn.Module) -> Dict[str, Tuple[int, ...]]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _trained(
    layer: SparseConv2d, originals: Dict[SparseConv2d, SparseConv2d]
) -> SparseConv2d:
    """Follow averages of averages to the layer that is trained."""
    passed = set()
    while layer in originals:
        if layer in passed:
            raise InputError(
                'SparsificationHook was told of averages that are averages of each '
                'other: name what is trained as the second of each pair.'
            )
        passed.add(layer)
        layer = originals[layer]
    return layer
