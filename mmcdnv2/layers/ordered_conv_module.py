"""Convolution, norm and activation that say in which order they run."""

from typing import Any, Iterator, Sequence, Tuple

from mmcv.cnn import ConvModule
from mmengine.utils import is_seq_of
from torch import nn

from ..errors import InputError
from ..ops.kernel_arguments import CONV_FIRST, replaces_forward


class OrderedConvModule(ConvModule):
    """mmcv's ConvModule, its children listed in the order in which they run.

    mmcv's ``fuse_conv_bn`` takes the children as they come and folds a norm into
    the convolution before it. mmcv lists the convolution first, wherever it
    runs; here a norm that runs before the convolution also comes before it, and
    stays what it is. Only :meth:`named_children` and :meth:`children` differ:
    parameters and state dicts keep mmcv's order. For the arguments see
    :class:`mmcv.cnn.ConvModule`.

    Raises:
        InputError: If ``order`` does not name each of the three once.
    """

    def __init__(
        self, *args: Any, order: Sequence[str] = CONV_FIRST, **kwargs: Any
    ) -> None:
        if not is_seq_of(order, str) or sorted(order) != sorted(CONV_FIRST):
            raise InputError(
                f"An order names 'conv', 'norm' and 'act' once each, got {order!r}."
            )
        # An activation that comes first would change the caller's map.
        kwargs.setdefault('inplace', order[0] != 'act')
        super().__init__(*args, order=tuple(order), **kwargs)

    def named_children(self) -> Iterator[Tuple[str, nn.Module]]:
        """Yield names and children, those that ``order`` has in its order."""
        names = dict(conv='conv', norm=self.norm_name, act='activate')
        ranks = {names[part]: rank for rank, part in enumerate(self.order)}
        children = super().named_children()
        yield from sorted(children, key=lambda child: ranks.get(child[0], -1))


replaces_forward(OrderedConvModule)
