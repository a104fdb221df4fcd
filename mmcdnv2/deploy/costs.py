"""Measure a model's costs before and after condensing."""

import io
from dataclasses import dataclass
from functools import partial
from typing import Callable, Dict, Iterable, List, Optional, Tuple

import torch
from torch import Tensor, nn

from ..builder import TensorMode
from ..complexity import count_macs, count_params, median_latency
from ..errors import in_one_line


@dataclass
class Costs:
    """Costs of a model as pairs (sparse, condensed).

    Optional values are None if they cannot be measured.

    Attributes:
        params (tuple[int]): Parameters of the model.
        macs (tuple[int], optional): Multiply-accumulates of the model.
        backbone_macs (tuple[int], optional): Multiply-accumulates of its backbone.
        megabytes (tuple[float]): Size of a checkpoint with weights only.
        latency (tuple[float], optional): Milliseconds per image, whole model.
        backbone_latency (tuple[float], optional): Milliseconds per image,
            backbone.
        unmeasured (dict[str, str]): Reasons for values that are None, by name.
    """

    params: Tuple[int, int]
    macs: Optional[Tuple[int, int]]
    backbone_macs: Optional[Tuple[int, int]]
    megabytes: Tuple[float, float]
    latency: Optional[Tuple[float, float]]
    backbone_latency: Optional[Tuple[float, float]]
    unmeasured: Dict[str, str]


def measure_costs(
    sparse: nn.Module, condensed: nn.Module, inputs: Tensor, samples: list
) -> Costs:
    """Count and time a sparse model and its condensed form.

    Args:
        sparse (nn.Module): A classifier or a detector.
        condensed (nn.Module): Its condensed form.
        inputs (Tensor): Images, shape (1, 3, H, W).
        samples (list): Their data samples.

    Returns:
        Costs: Both models' costs, with interleaved timing.
    """
    models = (sparse, condensed)
    networks: List[nn.Module] = [TensorMode(model, samples) for model in models]
    unmeasured: Dict[str, str] = {}

    def measured(name: str, measure: Callable[[], Iterable]) -> Optional[tuple]:
        # Models of other packages may raise anything without annotations or on a
        # small input; the other costs can still be measured.
        try:
            return tuple(measure())
        except Exception as error:
            unmeasured[name] = in_one_line(error)
            return None

    return Costs(
        params=(count_params(sparse), count_params(condensed)),
        macs=measured('macs', lambda: [count_macs(n, inputs) for n in networks]),
        backbone_macs=measured(
            'backbone_macs', lambda: [count_macs(m.backbone, inputs) for m in models]
        ),
        megabytes=(_megabytes(sparse), _megabytes(condensed)),
        latency=measured(
            'latency', lambda: median_latency([partial(n, inputs) for n in networks])
        ),
        backbone_latency=measured(
            'backbone_latency',
            lambda: median_latency([partial(m.backbone, inputs) for m in models]),
        ),
        unmeasured=unmeasured,
    )


def _megabytes(model: nn.Module) -> float:
    """Return the size of the model's weights as a file, in 10^6 bytes."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell() / 1e6
