"""One training of the study, in a process of its own."""

import math
import multiprocessing
import os
import shutil
import sys
import threading
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcdnv2.engine import build_runner
from mmcdnv2.layers import kept_fraction
from mmcdnv2.machine import processor_name
from mmcdnv2.version import __version__

from .recipes import LOADERS
from .results import Result, last_checkpoint


class _CountingHook(Hook):
    """Count the images of a training where other processes can see it.

    Args:
        images (Any): A shared number.
    """

    def __init__(self, images: Any) -> None:
        self.images = images
        self.began = 0.0
        self.first = 0

    def before_train(self, runner: Runner) -> None:
        # What was done before an interruption is done.
        loader = runner.train_dataloader
        self.first = runner.epoch * len(loader.dataset)
        self.images.value = self.first
        self.began = time.perf_counter()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        self.images.value += len((data_batch or {})['inputs'])


def work(folder: str, entry: str, seed: int, fingerprint: str, images: Any) -> None:
    """Train what a folder's config says and leave the result there.

    What the training prints goes to ``log.txt``, whose last line is the error
    if there is one; then the process ends with status 1.

    Args:
        folder (str): With ``config.py``; of an interrupted training also with
            its last checkpoint.
        entry (str): Name of the entry.
        seed (int): Seed of the training.
        fingerprint (str): For the result.
        images (Any): A shared number, counted up to the images of all epochs.
    """
    _end_with_parent()
    place = Path(folder)
    with open(place / 'log.txt', 'a', buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # The studied networks are so small that one thread each is fastest.
    torch.set_num_threads(1)
    try:
        train(place, entry, seed, fingerprint, images).write(place)
        _drop_old_checkpoints(place)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        sys.exit(1)


def train(folder: Path, entry: str, seed: int, fingerprint: str, images: Any) -> Result:
    """Train what a folder's config says; arguments as those of :func:`work`.

    Returns:
        Result: What it came to.
    """
    cfg = Config.fromfile(folder / 'config.py')
    last = last_checkpoint(folder)
    resumed = last is not None and last.is_file()
    cfg.resume = resumed
    if resumed:
        # By name: MMEngine would prefer the config's own, or look where the study
        # was before it was moved.
        cfg.load_from = str(last)
    runner = build_runner(
        cfg,
        LOADERS,
        work_dir=str(folder),
        # The study wrote it, and a training's state is more than tensors.
        trust_checkpoint=resumed,
        # The plan has looked at it, once for all trainings.
        skip_data_check=True,
    )
    counter = _CountingHook(images)
    runner.register_hook(counter, priority='LOWEST')
    runner.train()
    seconds = time.perf_counter() - counter.began
    # Here and not by the training loop, which a training that was interrupted
    # after its last epoch would not reach.
    metrics = runner.val_loop.run()
    losses = runner.message_hub.get_scalar('train/loss')
    loss = losses.mean(len(runner.train_dataloader))
    error = 100 - metrics['accuracy/top1']
    return Result(
        entry=entry,
        seed=seed,
        fingerprint=fingerprint,
        error=_finite(error),
        loss=_finite(loss),
        kept_fraction=kept_fraction(runner.model),
        seconds=seconds,
        images_per_second=(images.value - counter.first) / seconds,
        resumed=resumed,
        environment=dict(
            processor=processor_name(),
            torch=version('torch'),
            mmcdnv2=__version__,
        ),
    )


def _finite(value: float) -> Optional[float]:
    return float(value) if math.isfinite(value) else None


def _drop_old_checkpoints(folder: Path) -> None:
    """Keep the last checkpoint alone, and not what only resuming needs."""
    last = last_checkpoint(folder)
    for path in folder.glob('epoch_*.pth'):
        if path != last:
            path.unlink()
    for path in folder.glob('*/vis_data'):
        shutil.rmtree(path)


def _end_with_parent() -> None:
    """End this process when the one that started it has ended, killed perhaps."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
