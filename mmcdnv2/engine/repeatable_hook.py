"""The hook that makes a resumed training repeat the uninterrupted one."""

import zlib
from typing import Optional

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed

from ..registry import register_hook


@register_hook
class RepeatableHook(Hook):
    """Seed each epoch and each iteration by its number.

    MMEngine saves the seed of a training but not how far its random numbers have
    been used up. So a resumed training chooses other samples, drops other features
    and augments otherwise than one that was not interrupted. With this hook random
    numbers depend on the seed, the rank and the iteration alone: on the same machine
    with as many processes and threads, the resumed training ends in the same
    weights, bit for bit, if it resumes between epochs.

    Worker processes of a data loader have random numbers of their own, which are
    seeded when they start: set ``persistent_workers=False`` where augmentations are
    random. Loops of iterations load their first batch, after they resumed, with
    other random numbers.

    Examples:
        >>> custom_hooks = [dict(type='RepeatableHook')]
        >>> randomness = dict(seed=0)
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed what loads the first batch."""
        self._seed(runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None
    ) -> None:
        """Seed what is random in the iteration, and what loads the next batch."""
        self._seed(runner)

    @staticmethod
    def _seed(runner: Runner) -> None:
        # Seeds that follow each other would give the next rank this rank's numbers
        # of the next iteration.
        numbers = f'{runner.seed} {get_rank()} {runner.iter}'
        set_random_seed(zlib.crc32(numbers.encode()))
