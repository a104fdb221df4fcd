"""CondenseNetV2 and SFR for MMDetection and MMPreTrain.

Importing the package registers its modules, so that one line makes them
available to a config::

    custom_imports = dict(imports=['mmcdnv2'])

and that ``mmpretrain.get_model`` knows the configs by name.
"""

from . import backbones, engine, heads, layers, necks
from .registry import register_configs
from .version import __version__

__all__ = ['__version__', 'backbones', 'engine', 'heads', 'layers', 'necks']

register_configs()
