"""What all networks with sparse layers have in common."""

from mmengine.runner import CheckpointLoader

from .checkpoint import weights_of
from .errors import InputError
from .layers import condense_layers, sparse_layers


class CondensableMixin:
    """Condensing for networks built from LGC and SFR.

    Stands before the other base class. A network that has it takes
    ``deploy=True`` to build its condensed form.
    """

    def init_weights(self) -> None:
        """Initialise; a pretrained checkpoint must have all the weights.

        Raises:
            InputError: If the checkpoint lacks parameters or has others'.
                MMEngine would leave those at random.
        """
        super().init_weights()
        cfg = self.init_cfg
        if not isinstance(cfg, dict) or cfg.get('type') != 'Pretrained':
            return
        loader = dict(map_location='cpu', logger='silent')
        content = CheckpointLoader.load_checkpoint(cfg['checkpoint'], **loader)
        prefix = cfg.get('prefix') or ''
        weights = {
            name[len(prefix) :]: value
            for name, value in weights_of(content).items()
            if name.startswith(prefix)
        }
        missing = [name for name, _ in self.named_parameters() if name not in weights]
        if missing:
            raise InputError(
                f'{cfg["checkpoint"]} has no weights for {len(missing)} parameters of '
                f'{type(self).__name__}, for example {prefix}{missing[0]}: it belongs '
                'to another network, or init_cfg needs another prefix.'
            )
        try:
            self.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(
                f'{cfg["checkpoint"]} belongs to another {type(self).__name__}: '
                f'{reason}'
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
