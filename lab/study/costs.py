"""Count the study's networks and match their MACs."""

import copy
from itertools import product
from typing import Tuple

from mmengine.config import Config

from mmcdnv2.builder import TensorMode, build_model, make_inputs
from mmcdnv2.complexity import count_macs, count_params
from mmcdnv2.config import type_of
from mmcdnv2.deploy.condense import condensed_config
from mmcdnv2.errors import InputError

# Largest factor by which `widen` raises a growth rate.
_LARGEST_GROWTH = 1.5


def is_pruned(cfg: Config) -> bool:
    """Return whether a training config prunes."""
    return 'SparsificationHook' in map(type_of, cfg.get('custom_hooks') or [])


def count_costs(cfg: Config, shape: Tuple[int, int]) -> Tuple[int, int]:
    """Count a classifier in its final form: condensed if it is pruned.

    Args:
        cfg (Config): Config of the classifier.
        shape (tuple[int]): Image height and width.

    Returns:
        tuple[int]: Parameters and MACs per image.
    """
    if is_pruned(cfg):
        cfg = condensed_config(cfg)
    model = build_model(cfg)
    inputs, samples = make_inputs(model, cfg, input_shape=shape)
    return count_params(model), count_macs(TensorMode(model, samples), inputs)


def widen(cfg: Config, target: int, shape: Tuple[int, int]) -> None:
    """Raise a CondenseNet's growth rates until its MACs match a target.

    Args:
        cfg (Config): Changed in place.
        target (int): Condensed MACs.
        shape (tuple[int]): Image height and width.

    Raises:
        InputError: If no growth rates come within 2 % of the target.
    """
    arch = cfg.model.backbone.arch
    candidate = copy.deepcopy(cfg)

    def distance(rates: Tuple[int, ...]) -> int:
        _set_growth_rates(candidate, rates)
        return abs(count_costs(candidate, shape)[1] - target)

    candidates = product(
        *(
            range(rate, int(rate * _LARGEST_GROWTH) + 1, arch.groups)
            for rate in arch.growth_rates
        )
    )
    distances = {rates: distance(rates) for rates in candidates}
    nearest = min(distances, key=distances.__getitem__)
    if distances[nearest] > 0.02 * target:
        raise InputError(
            f'no growth rates give {target / 1e6:.2f}M MACs within 2 %; the nearest '
            f'are {nearest}'
        )
    _set_growth_rates(cfg, nearest)


def _set_growth_rates(cfg: Config, rates: Tuple[int, ...]) -> None:
    arch = cfg.model.backbone.arch
    arch.growth_rates = rates
    grown = sum(depth * rate for depth, rate in zip(arch.depths, rates))
    cfg.model.head.in_channels = 2 * rates[0] + grown
