"""The classifier of CondenseNet."""

from typing import Optional, Tuple

from mmpretrain.models import LinearClsHead
from torch import Tensor

from ..condensable import CondensableMixin
from ..layers import LGC, CondensedLGC
from ..registry import register_model


@register_model
class LGCClsHead(CondensableMixin, LinearClsHead):
    """Linear classifier that prunes its inputs.

    CondenseNet prunes the half of its ImageNet classifier's inputs with the
    smallest weights in the middle of training (CondenseNet, Sec. 4). Here the
    classifier is an LGC with one group, pruned by
    :class:`~mmcdnv2.engine.SparsificationHook`.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Number of channels of the feature vector.
        condense_factor (int): The head keeps in_channels / condense_factor
            inputs, rounded up. Defaults to 2.
        deploy (bool): Whether to build the condensed form. Defaults to False.
        init_cfg (dict, optional): Initialisation config. Defaults to
            ``dict(type='Normal', layer='LGC', std=0.01)``.
        kwargs: See :class:`mmpretrain.models.LinearClsHead`.

    Raises:
        InputError: If the factor is not in [1, in_channels].
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        condense_factor: int = 2,
        deploy: bool = False,
        init_cfg: Optional[dict] = None,
        **kwargs,
    ) -> None:
        init_cfg = init_cfg or dict(type='Normal', layer='LGC', std=0.01)
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **kwargs)
        layer = CondensedLGC if deploy else LGC
        self.fc = layer(in_channels, num_classes, condense_factor=condense_factor)

    def forward(self, feats: Tuple[Tensor, ...]) -> Tensor:
        """Compute logits.

        Args:
            feats (tuple[Tensor]): The last one has shape (N, in_channels).

        Returns:
            Tensor: Logits, shape (N, num_classes).
        """
        return self.fc(self.pre_logits(feats)[:, :, None, None]).flatten(1)
