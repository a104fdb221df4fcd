"""What all backbones with sparse layers have in common."""

from ..layers import condense_layers, sparse_layers


class CondensableMixin:
    """Condensing for backbones built from LGC and SFR.

    A backbone that has it takes ``deploy=True`` to build its condensed form.
    """

    @property
    def deploy(self) -> bool:
        """bool: Whether the network is in its condensed form."""
        return not sparse_layers(self)

    def switch_to_deploy(self) -> None:
        """Condense all sparse layers in place.

        Raises:
            InputError: If a layer's sparsification is unfinished; the network
                is then left as it was.
        """
        condense_layers(self)
