"""CondenseNetV2 and SFR for MMDetection and MMPreTrain.

Importing the package registers its modules, so that one line makes them
available to a config::

    custom_imports = dict(imports=['mmcdnv2'])
"""

from . import backbones, engine, heads, layers, necks
from .version import __version__

__all__ = ['__version__', 'backbones', 'engine', 'heads', 'layers', 'necks']
