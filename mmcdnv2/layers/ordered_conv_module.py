"""A ConvModule that lists its children in execution order."""

from typing import Any, Iterator, Sequence, Tuple

from mmcv.cnn import ConvModule
from mmengine.utils import is_seq_of
from torch import nn

from ..errors import InputError
from ..ops.kernel_arguments import CONV_FIRST, replaces_forward


class OrderedConvModule(ConvModule):
    """mmcv's ConvModule with its children listed in execution order.

    mmcv's ``fuse_conv_bn`` iterates over the children and folds a norm into the
    convolution listed before it. mmcv's ConvModule always lists the convolution
    first; this one lists a norm that runs first before the convolution, so it is
    not folded. Only :meth:`named_children` and :meth:`children` differ:
    parameters and state dicts keep mmcv's order. For the arguments see
    :class:`mmcv.cnn.ConvModule`.

    Raises:
        InputError: If ``order`` is no permutation of 'conv', 'norm' and 'act'.
    """

    def __init__(
        self, *args: Any, order: Sequence[str] = CONV_FIRST, **kwargs: Any
    ) -> None:
        if not is_seq_of(order, str) or sorted(order) != sorted(CONV_FIRST):
            raise InputError(
                f"order must list 'conv', 'norm' and 'act' once each, got {order!r}."
            )
        # An in-place activation that runs first would change the caller's tensor.
        kwargs.setdefault('inplace', order[0] != 'act')
        super().__init__(*args, order=tuple(order), **kwargs)

    def named_children(self) -> Iterator[Tuple[str, nn.Module]]:
        """Yield names and children, sorted by ``order``."""
        names = dict(conv='conv', norm=self.norm_name, act='activate')
        ranks = {names[part]: rank for rank, part in enumerate(self.order)}
        children = super().named_children()
        yield from sorted(children, key=lambda child: ranks.get(child[0], -1))


replaces_forward(OrderedConvModule)
