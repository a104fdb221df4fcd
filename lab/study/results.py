"""The result of a training, as a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, Optional

from mmcdnv2.files import replace_when_done

NAME = 'result.json'


@dataclass(frozen=True)
class Result:
    """What a finished training came to.

    Attributes:
        entry (str): Name of the entry.
        seed (int): Seed of all its randomness.
        fingerprint (str): What it was trained with; see
            :class:`~lab.study.plan.Training`.
        error (float, optional): Top-1 error after the last epoch in percent;
            None if it is not a number.
        loss (float, optional): Mean training loss of the last epoch; None if
            it is not a finite number.
        kept_fraction (float): Fraction of the sparse layers' weights kept.
        seconds (float): Time of the training, without imports and tests.
        images_per_second (float): Images that it learned from in a second.
        resumed (bool): Whether an interrupted training was resumed. Its time
            is that since then, and its shuffling and augmentation are not
            those of a training without interruption.
        environment (dict[str, str]): Processor and versions.
    """

    entry: str
    seed: int
    fingerprint: str
    error: Optional[float]
    loss: Optional[float]
    kept_fraction: float
    seconds: float
    images_per_second: float
    resumed: bool
    environment: Dict[str, str]

    @property
    def diverged(self) -> bool:
        """bool: Whether the training ended in numbers that are none."""
        return self.error is None or self.loss is None

    def write(self, folder: Path) -> None:
        """Write the result into the training's folder.

        Args:
            folder (Path): Where to; the file is there whole or not at all.
        """
        with replace_when_done(folder / NAME) as path:
            path.write_text(json.dumps(asdict(self), indent=1) + '\n')


def last_checkpoint(folder: Path) -> Optional[Path]:
    """Look up a training's last checkpoint.

    Args:
        folder (Path): The training's folder, which may have been moved since.

    Returns:
        Path | None: None if none is named. The file may be missing.
    """
    pointer = folder / 'last_checkpoint'
    # MMEngine writes a whole path, of which the name alone is still right.
    name = Path(pointer.read_text()).name if pointer.exists() else ''
    return folder / name if name else None


def read_result(folder: Path, fingerprint: str) -> Optional[Result]:
    """Read a training's result.

    Args:
        folder (Path): The training's folder.
        fingerprint (str): What the training must have been trained with.

    Returns:
        Result | None: None if there is none, or one of another training.
    """
    try:
        result = Result(**json.loads((folder / NAME).read_text()))
    except (OSError, ValueError, TypeError):
        # No such file, or one that an earlier version wrote.
        return None
    return result if result.fingerprint == fingerprint else None
