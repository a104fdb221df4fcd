"""The base class of mixins for modules."""

from typing import TYPE_CHECKING

# A mixin is listed before a base class that is a module, so it need not be one
# itself; only type checkers have to know that it will be part of one.
if TYPE_CHECKING:
    from torch.nn import Module as ModuleMixin
else:
    ModuleMixin = object

__all__ = ['ModuleMixin']
