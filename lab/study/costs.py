"""Parameters and MACs of the study's networks, and networks of equal MACs."""

import copy
from itertools import product
from typing import List, Tuple

from mmengine.config import Config

from mmcdnv2.builder import TensorMode, build_model, make_inputs
from mmcdnv2.complexity import count_macs, count_params
from mmcdnv2.config import type_of
from mmcdnv2.deploy.condense import condensed_config
from mmcdnv2.errors import InputError

# How much higher than the config's a growth rate may become.
_LARGEST_GROWTH = 1.5


def count_costs(cfg: Config, shape: Tuple[int, int]) -> Tuple[int, int]:
    """Count a network as it is in the end: condensed, if it is pruned.

    Args:
        cfg (Config): Config of a classifier.
        shape (tuple[int]): Height and width of an image.

    Returns:
        tuple[int]: Parameters, and MACs of one image.
    """
    if is_pruned(cfg):
        cfg = condensed_config(cfg)
    model = build_model(cfg)
    inputs, samples = make_inputs(model, cfg, input_shape=shape)
    return count_params(model), count_macs(TensorMode(model, samples), inputs)


def is_pruned(cfg: Config) -> bool:
    """Tell whether a training prunes.

    Args:
        cfg (Config): Config of a classifier and its training.

    Returns:
        bool: Whether it has the hook that does.
    """
    return 'SparsificationHook' in map(type_of, cfg.get('custom_hooks') or [])


def widen(cfg: Config, target: int, shape: Tuple[int, int]) -> None:
    """Raise a CondenseNet's growth rates until it has a number of MACs.

    Args:
        cfg (Config): Changed in place: of the growth rates that its groups
            allow, it gets those with which it is nearest to the target.
        target (int): MACs, condensed.
        shape (tuple[int]): Height and width of an image.

    Raises:
        InputError: If even the highest growth rates are too few.
    """
    arch = cfg.model.backbone.arch
    step = arch.groups
    *first, last = [
        list(range(rate, int(rate * _LARGEST_GROWTH) + 1, step))
        for rate in arch.growth_rates
    ]

    def distance(rates: List[int]) -> int:
        set_growth_rates(candidate, rates)
        return count_costs(candidate, shape)[1] - target

    candidate = copy.deepcopy(cfg)
    found = []
    for combination in product(*first):
        rates = list(combination)
        # Of the last block's the smallest with enough MACs, and that before it.
        low, high = 0, len(last) - 1
        while low < high:
            middle = (low + high) // 2
            if distance([*rates, last[middle]]) < 0:
                low = middle + 1
            else:
                high = middle
        for index in {max(low - 1, 0), low}:
            wider = [*rates, last[index]]
            found.append((abs(distance(wider)), wider))
    nearest, rates = min(found)
    if nearest > 0.02 * target:
        raise InputError(
            f'no growth rates give it {target / 1e6:.2f}M MACs within 2 %, '
            f'{rates} are nearest'
        )
    set_growth_rates(cfg, rates)


def set_growth_rates(cfg: Config, rates: List[int]) -> None:
    """Set a CondenseNet's growth rates and what follows from them.

    Args:
        cfg (Config): Config of a classifier; changed in place.
        rates (list[int]): A growth rate for each block.
    """
    arch = cfg.model.backbone.arch
    arch.growth_rates = tuple(rates)
    grown = sum(depth * rate for depth, rate in zip(arch.depths, rates))
    cfg.model.head.in_channels = 2 * rates[0] + grown
