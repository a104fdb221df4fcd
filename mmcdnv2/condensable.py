"""The mixin for networks with sparse layers."""

import os
from typing import Any, Dict, List

import torch
from mmengine.model import PretrainedInit
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from .checkpoint import (
    check_finite,
    check_state_dict,
    check_types,
    load_checkpoint,
)
from .errors import InputError, UntrustedError
from .layers import SFRModule, condense_layers, sparse_layers
from .mixin import ModuleMixin


def _read_names(path: str) -> List[str]:
    """Read the names of a file's weights, but run no code that it may hold."""
    if '://' in path:
        return []
    try:
        content = load_checkpoint(os.path.expanduser(path))
    except UntrustedError as error:
        raise InputError(
            f'{path} holds more than tensors and plain data, which may run code when '
            'it is loaded: for init_cfg, save its state dict alone in another file.'
        ) from error
    weights = content.get('state_dict', content)
    check_state_dict(weights, path)
    return list(weights)


class CondensableMixin(ModuleMixin):
    """Condensing for networks with LGC and SFR layers.

    List it before the other base class. A subclass must accept ``deploy=True`` to
    build its condensed form.
    """

    def init_weights(self) -> None:
        """Initialise weights; require complete checkpoints in ``init_cfg``.

        Raises:
            InputError: If the checkpoint lacks parameters or their shapes differ.
                MMEngine would leave these random.
        """
        cfgs = self.init_cfg or []
        pretrained = [
            cfg
            for cfg in ([cfgs] if isinstance(cfgs, dict) else cfgs)
            if cfg['type'] in ('Pretrained', PretrainedInit)
        ]
        if not pretrained:
            sfrs = [m for m in self.modules() if isinstance(m, SFRModule)]
            again = getattr(self, 'is_init', False)
            before = [parameters_to_vector(sfr.parameters()) for sfr in sfrs]
            super().init_weights()
            # Some networks initialise their layers by type, which overwrites
            # sfr_init, also in a second call, where MMEngine keeps all weights.
            for sfr, values in zip(sfrs, before):
                kept = torch.equal(parameters_to_vector(sfr.parameters()), values)
                if not (again and kept):
                    sfr.init_sfr()
            return
        source = ' and '.join(cfg['checkpoint'] for cfg in pretrained)
        for cfg in pretrained:
            names = _read_names(cfg['checkpoint'])
            # Without a prefix MMEngine removes that of nn.DataParallel itself.
            wrapped = f'module.{cfg.get("prefix") or ""}'
            if cfg.get('prefix') and any(name.startswith(wrapped) for name in names):
                cfg['prefix'] = wrapped
        weights: Dict[str, Tensor] = {}
        # Collects the weights that MMEngine finds, reads and renames.
        handle = self._register_load_state_dict_pre_hook(
            lambda state_dict, *_: weights.update(state_dict)
        )
        # Without this, MMEngine loads nothing in a second call, but some networks
        # draw random weights in each.
        self.is_init = False
        try:
            super().init_weights()
        except AssertionError as error:
            if 'is not in the pretrained model' in str(error):
                # No name has the prefix.
                self._check_names(weights, pretrained, source)
            raise
        except RuntimeError as error:
            if 'No state_dict found' in str(error):
                raise InputError(
                    f'{source} is not a checkpoint: it holds no state dict.'
                ) from error
            raise
        finally:
            handle.remove()
        self._check_names(weights, pretrained, source)
        check_finite(weights, source)
        check_types(self, weights, source)
        try:
            # Again: MMEngine skips weights whose shape differs, and some networks
            # draw random weights after loading.
            self.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(
                f'{source} belongs to another {type(self).__name__}: {reason}'
            ) from error

    def _check_names(
        self, weights: Dict[str, Tensor], pretrained: List[Dict[str, Any]], source: str
    ) -> None:
        """Check that there are weights for all parameters."""
        missing = [name for name, _ in self.named_parameters() if name not in weights]
        if missing:
            prefix = (pretrained[-1].get('prefix') or '').rstrip('.')
            example = f'{prefix}.{missing[0]}' if prefix else missing[0]
            raise InputError(
                f'{source} has no weights for {len(missing)} parameters of '
                f'{type(self).__name__}, for example {example}: it belongs to '
                'another network, or init_cfg needs another prefix.'
            )

    @property
    def deploy(self) -> bool:
        """bool: Whether the network has no sparse layers."""
        return not sparse_layers(self)

    def switch_to_deploy(self) -> None:
        """Condense all sparse layers in place.

        Raises:
            InputError: If a layer's sparsification is unfinished; the network
                is then unchanged.
        """
        condense_layers(self)
