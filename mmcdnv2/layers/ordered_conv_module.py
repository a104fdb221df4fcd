"""Convolution, norm and activation that say in which order they run."""

from typing import Iterator, Tuple

from mmcv.cnn import ConvModule
from torch import nn

from ..ops.kernel_arguments import replaces_forward


class OrderedConvModule(ConvModule):
    """mmcv's ConvModule, its children listed in the order in which they run.

    mmcv's ``fuse_conv_bn`` takes the children as they come and folds a norm into
    the convolution before it. mmcv lists the convolution first, wherever it
    runs; here a norm that runs before the convolution also comes before it, and
    stays what it is. Only :meth:`named_children` and :meth:`children` differ:
    parameters and state dicts keep mmcv's order. For the arguments see
    :class:`mmcv.cnn.ConvModule`.
    """

    def named_children(self) -> Iterator[Tuple[str, nn.Module]]:
        """Yield names and children, those that ``order`` has in its order."""
        names = dict(conv='conv', norm=self.norm_name, act='activate')
        ranks = {names[part]: rank for rank, part in enumerate(self.order)}
        children = super().named_children()
        yield from sorted(children, key=lambda child: ranks.get(child[0], -1))


replaces_forward(OrderedConvModule)
