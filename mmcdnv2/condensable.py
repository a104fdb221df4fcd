"""The mixin of all networks with sparse layers."""

from typing import TYPE_CHECKING, Dict

from mmengine.model import PretrainedInit
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import _load_checkpoint_with_prefix
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from .checkpoint import weights_of
from .errors import InputError
from .layers import condense_layers, sparse_layers


def _pretrained_weights(cfg: Dict) -> Dict[str, Tensor]:
    """Read the weights that MMEngine finds by an init_cfg, named as it does."""
    checkpoint, prefix = cfg['checkpoint'], cfg.get('prefix')
    if prefix is not None:
        try:
            return _load_checkpoint_with_prefix(prefix, checkpoint, 'cpu')
        except AssertionError:
            # That is how it says that no name has the prefix.
            return {}
    content = CheckpointLoader.load_checkpoint(checkpoint, 'cpu', 'silent')
    if not isinstance(content, dict):
        raise InputError(f'{checkpoint} is not a checkpoint: it holds no state dict.')
    weights = dict(weights_of(content))
    consume_prefix_in_state_dict_if_present(weights, 'module.')
    return weights


# A mixin is listed before a base class that is a module.
if TYPE_CHECKING:
    from torch.nn import Module as _Module
else:
    _Module = object


class CondensableMixin(_Module):
    """Condensing for networks built from LGC and SFR.

    Stands before the other base class. A network that has it takes
    ``deploy=True`` to build its condensed form.
    """

    def init_weights(self) -> None:
        """Initialise; what ``init_cfg`` loads must have all the weights.

        Raises:
            InputError: If the checkpoint lacks parameters or has others'.
                MMEngine would leave those at random.
        """
        cfgs = self.init_cfg or []
        pretrained = [
            cfg
            for cfg in ([cfgs] if isinstance(cfgs, dict) else cfgs)
            if cfg['type'] in ('Pretrained', PretrainedInit)
        ]
        if not pretrained:
            super().init_weights()
            return
        weights: Dict[str, Tensor] = {}
        for cfg in pretrained:
            weights.update(_pretrained_weights(cfg))
        missing = [name for name, _ in self.named_parameters() if name not in weights]
        source = ' and '.join(cfg['checkpoint'] for cfg in pretrained)
        if missing:
            prefix = (pretrained[-1].get('prefix') or '').rstrip('.')
            example = f'{prefix}.{missing[0]}' if prefix else missing[0]
            raise InputError(
                f'{source} has no weights for {len(missing)} parameters of '
                f'{type(self).__name__}, for example {example}: it belongs to '
                'another network, or init_cfg needs another prefix.'
            )
        super().init_weights()
        try:
            # MMEngine has done it, but goes on where a shape differs.
            self.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(
                f'{source} belongs to another {type(self).__name__}: {reason}'
            ) from error

    @property
    def deploy(self) -> bool:
        """bool: Whether there is nothing left to condense."""
        return not sparse_layers(self)

    def switch_to_deploy(self) -> None:
        """Condense all sparse layers in place.

        Raises:
            InputError: If a layer's sparsification is unfinished; the network
                is then left as it was.
        """
        condense_layers(self)
