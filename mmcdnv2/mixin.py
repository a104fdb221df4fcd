"""The base class of mixins for modules."""

from typing import TYPE_CHECKING

# Mixins are listed before an nn.Module base class and are not modules themselves;
# only type checkers treat them as such.
if TYPE_CHECKING:
    from torch.nn import Module as ModuleMixin
else:
    ModuleMixin = object

__all__ = ['ModuleMixin']
