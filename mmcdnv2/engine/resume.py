"""Find the checkpoint that an interrupted training run resumes from."""

import logging
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple, Union

from mmengine.config import Config
from mmengine.logging import print_log

from ..checkpoint import load_checkpoint
from ..errors import ConfigError, InputError, UntrustedError


def prepare_resume(cfg: Config, trust: bool = False) -> Optional[Dict[str, Any]]:
    """Choose the checkpoint that a training run resumes from, and check it.

    A config that asks to resume without naming a checkpoint gets the last whole one
    of its ``work_dir``; only without any checkpoint there it starts from the
    beginning. If it has no seed, it gets that of the interrupted training run, which
    shuffled its data by it.

    Args:
        cfg (Config): A config with a ``work_dir``; changed in place.
        trust (bool): Whether the checkpoint may hold more than tensors and plain
            data. Defaults to False.

    Returns:
        dict: The checkpoint, read. None if there is none, or MMEngine downloads it.

    Raises:
        ConfigError: If no training run can be resumed from the checkpoint.
        InputError: If the checkpoint cannot be used, or none in ``work_dir``.
    """
    content = None
    if cfg.get('resume') and not cfg.get('load_from'):
        cfg.load_from, content = find_last_checkpoint(cfg.work_dir, trust)
        if content is None:
            print_log(
                f'{cfg.work_dir} has no checkpoint to resume from, so the training '
                'starts from the beginning.',
                logger='current',
            )
            cfg.resume = False
    path = cfg.get('load_from')
    if not path or '://' in path:
        return None
    if content is None:
        content = load_checkpoint(path, trust)
    if not cfg.get('resume'):
        return content
    _check_resumable(content, path, trust)
    randomness = cfg.get('randomness') or {}
    seed = content['meta'].get('seed')
    if randomness.get('seed') is None and seed is not None:
        cfg.randomness = dict(randomness, seed=seed)
    return content


def find_last_checkpoint(
    work_dir: Union[str, Path], trust: bool = False
) -> Tuple[Optional[str], Optional[Dict[str, Any]]]:
    """Find the last checkpoint from which a training run can be resumed.

    MMEngine records the one that it wrote last in ``last_checkpoint``. If that is
    damaged or missing, the others in the folder are tried, the newest first.

    Args:
        work_dir (str | Path): Folder of the training run.
        trust (bool): Whether checkpoints may hold more than tensors and plain data.
            Defaults to False.

    Returns:
        tuple[str, dict]: Its path and its content. None and None if the folder has no
        checkpoint.

    Raises:
        UntrustedError: If a checkpoint holds more and ``trust`` is not set.
        InputError: If there are checkpoints, but none to resume from.
    """
    reasons = []
    for path in _candidates(Path(work_dir)):
        try:
            content = load_checkpoint(path, trust)
            if _can_be_resumed(content):
                return str(path), content
            reasons.append(f'{path} holds weights only.')
        except UntrustedError:
            raise
        except InputError as error:
            reasons.append(str(error))
        print_log(
            f'An earlier checkpoint is tried: {reasons[-1]}',
            logger='current',
            level=logging.WARNING,
        )
    if reasons:
        # A run from the beginning would overwrite them.
        raise InputError(
            f'{work_dir} has no checkpoint to resume from: {" ".join(reasons)} Name '
            'another checkpoint or, to start from the beginning, another work dir.'
        )
    return None, None


def _candidates(work_dir: Path) -> Iterator[Path]:
    folders, last = [work_dir], None
    note = work_dir / 'last_checkpoint'
    # A write that was cut off leaves an empty note.
    if note.is_file() and (name := note.read_text().strip()):
        last = Path(name)
        yield last
        # CheckpointHook may have an out_dir of its own.
        folders.append(last.parent)
    # Hidden files are such that were not finished.
    files = {
        path.resolve(): path
        for folder in folders
        for path in folder.glob('*.pth')
        if path.is_file() and not path.name.startswith('.')
    }
    if last is not None:
        files.pop(last.resolve(), None)
    yield from sorted(
        files.values(), key=lambda path: path.stat().st_mtime, reverse=True
    )


def _check_resumable(content: Dict[str, Any], path: str, trust: bool) -> None:
    """Refuse a checkpoint that MMEngine cannot go on from."""
    if not _can_be_resumed(content):
        raise ConfigError(
            f'{path} holds weights only, so no training can be resumed from it: '
            'to start from these weights, set load_from without resume.'
        )
    meta = content['meta']
    # MMEngine has it run, to compare the number of GPUs.
    if 'config' in meta and not trust:
        raise UntrustedError(
            f'{path} holds a config, which is code that is run when it is resumed '
            'from: if you trust where it comes from, set trust_checkpoint=True.'
        )
    counts = [meta.get(key) for key in ('iter', 'epoch')]
    hub = content.get('message_hub')
    if not isinstance(hub, dict) or not all(
        type(count) is int and count >= 0 for count in counts
    ):
        raise ConfigError(
            f'{path} does not say how far its training has come, so it cannot be '
            'resumed: to start from its weights, set load_from without resume.'
        )


def _can_be_resumed(content: Dict[str, Any]) -> bool:
    meta = content.get('meta')
    return isinstance(meta, dict) and 'iter' in meta
