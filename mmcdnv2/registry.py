"""Register modules, hooks and configs with MMDetection and MMPreTrain."""

import warnings
from pathlib import Path

from mmdet.registry import HOOKS as MMDET_HOOKS
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.registry import HOOKS, MODELS, Registry
from mmpretrain.apis import ModelHub
from mmpretrain.registry import HOOKS as MMPRETRAIN_HOOKS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS


def register_model(cls: type) -> type:
    """Register a module in MMEngine's, MMDetection's and MMPreTrain's registries.

    Every default scope falls back to MMEngine's root registry, which resolves
    the bare name. A prefixed name (``mmdet.X``, ``mmpretrain.X``) is resolved in
    that package's registry only.

    Args:
        cls (type): The module, registered under its class name.

    Returns:
        type: The module.
    """
    return _register(cls, MODELS, MMDET_MODELS, MMPRETRAIN_MODELS)


def register_hook(cls: type) -> type:
    """Register a hook; see :func:`register_model`.

    Args:
        cls (type): The hook, registered under its class name.

    Returns:
        type: The hook.
    """
    return _register(cls, HOOKS, MMDET_HOOKS, MMPRETRAIN_HOOKS)


def _register(cls: type, *registries: Registry) -> type:
    for registry in registries:
        registry.register_module(module=cls)
    return cls


def register_configs() -> None:
    """Register our model index, so that ``mmpretrain.get_model`` finds its names."""
    package = Path(__file__).parent
    # The index is in .mim in a wheel, next to the package in a clone.
    for root in (package / '.mim', package.parent):
        if (root / 'model-index.yml').is_file():
            try:
                ModelHub.register_model_index(root / 'model-index.yml', root)
            except ValueError as error:
                # A name is taken, by an earlier call or by MMPreTrain itself.
                warnings.warn(
                    f'Not all configs were registered by name: {error}', stacklevel=2
                )
            return
