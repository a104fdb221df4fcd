"""Classifiers and backbones as functions of a prepared image."""

from typing import Dict, Optional, Tuple

from mmpretrain.models import BaseClassifier
from mmpretrain.models.heads import ClsHead
from torch import Tensor, nn

from ..errors import InputError

# Results, and what the heads returned on the way, by their names.
Outputs = Tuple[Dict[str, Tensor], Dict[str, Tensor]]


class Exportable(nn.Module):
    """A network as a function of tensors, with outputs that have names.

    A subclass computes them by :meth:`predict`.

    Args:
        model (nn.Module): The network.
    """

    # Which of the heads' outputs have a row for each of the 'proposals', whose order a
    # rounding may change.
    by_proposal: Tuple[str, ...] = ()
    # From which probability on a pixel belongs to an object's mask.
    mask_threshold = 0.5

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def predict(self, x: Tensor, size: Optional[Tensor] = None) -> Outputs:
        """Compute the outputs.

        Args:
            x (Tensor): Prepared images, shape (N, 3, H, W), padded.
            size (Tensor, optional): Shape (2,), float32: their height and width
                without padding, which detectors need.

        Returns:
            tuple[dict, dict]: By their names, the results, and what the heads
            returned on the way.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, size: Optional[Tensor] = None) -> Tuple[Tensor, ...]:
        """Return the results and then what the heads returned."""
        found, raw = self.predict(x, size)
        return (*found.values(), *raw.values())


class Classifier(Exportable):
    """A classifier whose head ends with a softmax."""

    def __init__(self, model: BaseClassifier) -> None:
        super().__init__(model)
        head = getattr(model, 'head', None)
        own = getattr(type(head), '_get_predictions', None)
        if own is not ClsHead._get_predictions:
            raise InputError(
                f'The head {type(head).__name__} cannot be exported; what can is '
                'ClsHead and those that predict as it does, LinearClsHead and '
                'StackedLinearClsHead among them.'
            )

    def predict(self, x: Tensor, size: Optional[Tensor] = None) -> Outputs:
        logits = self.model(x, mode='tensor')
        return dict(scores=logits.softmax(1)), dict(logits=logits)


class Backbone(Exportable):
    """A backbone alone."""

    def predict(self, x: Tensor, size: Optional[Tensor] = None) -> Outputs:
        feats = self.model(x)
        feats = (feats,) if isinstance(feats, Tensor) else feats
        return {f'features_{i}': each for i, each in enumerate(feats)}, {}
