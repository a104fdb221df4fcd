"""CondenseNetV2 and SFR for MMDetection and MMPreTrain.

Importing the package registers its modules, so that one line makes them
available to a config::

    custom_imports = dict(imports=['mmcdnv2'])

and that ``mmpretrain.get_model`` knows the configs by name.
"""

import warnings
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO

# They report packages that their optional data sets and metrics would need.
with redirect_stdout(StringIO()), warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'faster_coco_eval is not installed')
    for _module in ('mmdet.datasets', 'mmdet.evaluation', 'mmpretrain.datasets'):
        import_module(_module)

from . import backbones, engine, heads, layers, necks
from .condensable import CondensableMixin
from .export.exported_models import ExportedClassifier, ExportedDetector
from .layers import LGC, SFR, LGCModule, SFRModule
from .registry import register_configs, register_model
from .version import __version__

__all__ = [
    'LGC',
    'SFR',
    'CondensableMixin',
    'ExportedClassifier',
    'ExportedDetector',
    'LGCModule',
    'SFRModule',
    '__version__',
    'backbones',
    'engine',
    'heads',
    'layers',
    'necks',
    'register_model',
]

register_configs()
