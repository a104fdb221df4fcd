"""One place that knows where MMDetection and MMPreTrain look for what is ours."""

import warnings
from pathlib import Path

from mmdet.registry import HOOKS as MMDET_HOOKS
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.registry import HOOKS, MODELS, Registry
from mmpretrain.apis import ModelHub
from mmpretrain.registry import HOOKS as MMPRETRAIN_HOOKS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS


def register_model(cls: type) -> type:
    """Register a module where both MMDetection and MMPreTrain find it.

    Every default scope falls back on MMEngine's root registry, which serves
    the bare name. A prefixed name (``mmdet.X``, ``mmpretrain.X``) is looked up
    in that package's registry alone, so the module is entered there as well.

    Args:
        cls (type): The module, registered under its class name.

    Returns:
        type: The module.
    """
    return _register(cls, MODELS, MMDET_MODELS, MMPRETRAIN_MODELS)


def register_hook(cls: type) -> type:
    """Register a hook, as :func:`register_model` does it with a module.

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
    """Let ``mmpretrain.get_model`` build the configs of our model index by name."""
    package = Path(__file__).parent
    # A wheel carries the index in .mim, a clone next to the package.
    for root in (package / '.mim', package.parent):
        if (root / 'model-index.yml').is_file():
            try:
                ModelHub.register_model_index(root / 'model-index.yml', root)
            except ValueError as error:
                # A name is taken: by an earlier call, or by MMPreTrain itself.
                warnings.warn(
                    f'Not all configs are known by name: {error}', stacklevel=2
                )
            return
