"""Compare the counted costs of the model index with published figures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Tuple, Union

from mmengine.fileio import load

from mmcdnv2.builder import TensorMode, build_model, make_inputs
from mmcdnv2.complexity import count_macs, count_paper_elements, count_params
from mmcdnv2.config import load_config
from mmcdnv2.errors import InputError, in_one_line
from mmcdnv2.layers import condense_layers, sparse_layers

# Largest relative difference from a published figure without a note.
TOLERANCE = dict(params=0.005, flops=0.015)


@dataclass
class Cost:
    """Cost of a config's model as pairs (sparse, condensed).

    Sparse convolutions count as dense, as they run.

    Attributes:
        input_shape (tuple[int]): Height and width of the input in pixels.
        params (tuple[int]): Parameters.
        macs (tuple[int]): MACs of convolutions and linear layers.
        paper_flops (tuple[int]): MACs and :func:`count_paper_elements`.
    """

    input_shape: Tuple[int, int]
    params: Tuple[int, int]
    macs: Tuple[int, int]
    paper_flops: Tuple[int, int]


@dataclass
class Published:
    """Published figures, for example '0.48M'.

    Attributes:
        by (str): Where they were published.
        params (str, optional): Parameters of the condensed network.
        flops (str, optional): FLOPs of the condensed network.
        counting (str): How FLOPs are counted: 'elements' as in the papers, or
            'macs'.
        notes (dict[str, str]): Why ours differ, by 'params' and 'flops'.
    """

    by: str
    params: Optional[str] = None
    flops: Optional[str] = None
    counting: str = 'elements'
    notes: Dict[str, str] = field(default_factory=dict)

    def compare(self, cost: Cost) -> Dict[str, 'Comparison']:
        """Compare the figures with measured costs.

        Args:
            cost (Cost): The measured cost at the paper's input size.

        Returns:
            dict[str, Comparison]: Comparisons by 'params' and 'flops', if
            published.
        """
        flops = cost.macs if self.counting == 'macs' else cost.paper_flops
        found = dict(params=(self.params, cost.params), flops=(self.flops, flops))
        return {
            name: Comparison(name, printed, measured[1])
            for name, (printed, measured) in found.items()
            if printed is not None
        }


@dataclass
class Comparison:
    """A published figure and ours.

    Attributes:
        name (str): 'params' or 'flops'.
        printed (str): In millions with an M, for example '28.6M'.
        measured (int): Our figure.
    """

    name: str
    printed: str
    measured: int

    @property
    def difference(self) -> float:
        """float: Relative difference from the printed figure."""
        return self.measured / (1e6 * float(self.printed.rstrip('M'))) - 1

    @property
    def rounds_to_printed(self) -> bool:
        """bool: Whether ours, rounded to the same number of digits, is equal."""
        number = self.printed.rstrip('M')
        decimals = len(number.partition('.')[2])
        return f'{self.measured / 1e6:.{decimals}f}' == number

    @property
    def is_near(self) -> bool:
        """bool: Whether ours is within the tolerance."""
        return abs(self.difference) <= TOLERANCE[self.name]


@dataclass
class ZooModel:
    """A model of the index.

    Attributes:
        name (str): Name of the model.
        config (Path): Its config file.
        task (str): For example 'Image Classification'.
        metadata (dict): Its metadata.
        published (Published, optional): Its published costs.
        metrics (dict[str, float]): Its results, by metric.
    """

    name: str
    config: Path
    task: str
    metadata: Dict = field(default_factory=dict)
    published: Optional[Published] = None
    metrics: Dict[str, float] = field(default_factory=dict)


def read_zoo(root: Union[str, Path]) -> List[ZooModel]:
    """Read the model index.

    Args:
        root (str | Path): Folder with ``model-index.yml`` and ``configs``.

    Returns:
        list[ZooModel]: The models in the order of the index.

    Raises:
        InputError: If the index does not exist.
    """
    root = Path(root)
    index = root / 'model-index.yml'
    if not index.is_file():
        raise InputError(f'There is no model index {index}.')
    models = []
    for part in load(str(index))['Import']:
        for model in load(str(root / part)).get('Models', []):
            metadata = model.get('Metadata', {})
            published = metadata.get('Published')
            models.append(
                ZooModel(
                    name=model['Name'],
                    config=root / model['Config'],
                    task=model['Results'][0]['Task'],
                    metadata=metadata,
                    published=published and Published(**published),
                    metrics=model['Results'][0]['Metrics'],
                )
            )
    return models


def measure(
    config: Union[str, Path], input_shape: Optional[Tuple[int, int]] = None
) -> Cost:
    """Count the costs of a config's model with random weights, sparse and condensed.

    Args:
        config (str | Path): Config of a classifier or a detector.
        input_shape (tuple[int], optional): Height and width of the input.
            Defaults to the size of the config's test data.

    Returns:
        Cost: The costs.

    Raises:
        InputError: If the config does not exist, the shape is too small, or the
            model needs more than images to run.
    """
    cfg = load_config(str(config))
    model = build_model(cfg)
    inputs, samples = make_inputs(model, cfg, input_shape=input_shape)
    network = TensorMode(model, samples)
    counts = []
    for condensed in (False, True):
        if condensed:
            for layer in sparse_layers(model).values():
                layer.set_progress(1)
            condense_layers(model)
        try:
            macs = count_macs(network, inputs)
            paper_flops = macs + count_paper_elements(network, inputs)
        except InputError:
            raise
        except Exception as error:
            # Models of other packages may raise anything without annotations.
            raise InputError(
                f'{config} cannot be counted: its model failed on an image without '
                f'annotations ({in_one_line(error)}); use a config of only its '
                'backbone.'
            ) from error
        counts.append((count_params(model), macs, paper_flops))
    before, after = counts
    return Cost(tuple(inputs.shape[-2:]), *zip(before, after))
