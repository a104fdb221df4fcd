"""Resuming trainings from before the children of our modules had their order."""

from typing import Any, Dict, List, Sequence

from torch import Tensor
from torch.optim import Optimizer


def _fits(state: Dict[int, Dict], parameters: Sequence[Tensor]) -> bool:
    """Whether the parameters may be those that an optimizer's state is about."""
    return all(
        value.shape == parameters[number].shape
        for number, values in state.items()
        for value in values.values()
        # Beside them there may be counters.
        if isinstance(value, Tensor) and value.dim()
    )


def renumber_checkpoint(
    checkpoint: Dict[str, Any], optimizer: Optimizer, parameters: Sequence[Tensor]
) -> None:
    """Bring an older checkpoint's parameter groups into this version's order.

    With a ``paramwise_cfg``, MMEngine makes a group of each parameter as it
    comes upon them, going from children to children. All of mmcv's ConvModules
    once had the convolution first; those of ours whose norm comes before the
    convolution say so now, by :class:`~mmcdnv2.layers.OrderedConvModule`. What
    has another order than that of then, or is in the present one, is left
    alone.

    Args:
        checkpoint (dict): What a training is resumed from, changed in place.
        optimizer (Optimizer): The optimizer that it is to continue with.
        parameters (Sequence[Tensor]): The model's trained parameters, in the
            model's order, which is that of then.
    """
    groups = optimizer.param_groups
    saved = checkpoint['optimizer']
    places = {parameter: place for place, parameter in enumerate(parameters)}
    order: List[int] = [
        places.get(parameter, -1) for group in groups for parameter in group['params']
    ]
    one_each = len(order) == len(groups) == len(saved['param_groups'])
    if not one_each or sorted(order) != list(range(len(parameters))):
        return
    current = [parameters[place] for place in order]
    if _fits(saved['state'], current) or not _fits(saved['state'], parameters):
        return
    saved['param_groups'] = [saved['param_groups'][place] for place in order]
    # The optimizer's schedulers keep a value for each group.
    for scheduler in checkpoint.get('param_schedulers', []):
        for name in {'base_values', '_last_value'} & set(scheduler):
            scheduler[name] = [scheduler[name][place] for place in order]
