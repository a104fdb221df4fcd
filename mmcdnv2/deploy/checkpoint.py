"""Reading checkpoints of unknown origin and writing files whole."""

import contextlib
import os
import pickle
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ContextManager, Dict, Iterator, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from torch import nn

from ..errors import InputError


def load_checkpoint(path: Union[str, Path], trust: bool = False) -> Dict[str, Any]:
    """Read a checkpoint, tensors and plain data only.

    Args:
        path (str | Path): Path of the file.
        trust (bool): Whether to unpickle arbitrary objects, which can run
            code. Defaults to False.

    Returns:
        dict: The checkpoint, on the CPU.

    Raises:
        InputError: If the file is missing, damaged, no checkpoint, or holds
            objects that only ``trust`` may load.
    """
    if not os.path.isfile(path):
        raise InputError(f'There is no checkpoint {path}.')
    try:
        with _mmengine_globals():
            checkpoint = torch.load(path, map_location='cpu', weights_only=not trust)
    except pickle.UnpicklingError as error:
        if not re.search('Unsupported (global|class)|unrecognized', str(error)):
            raise InputError(f'{path} is damaged or not a checkpoint.') from error
        raise InputError(
            f'{path} holds more than tensors and plain data, which may run code when '
            'it is loaded: if you trust where it comes from, repeat with '
            '--trust-checkpoint.'
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(f'{path} is damaged or not a checkpoint.') from error
    if not isinstance(checkpoint, dict):
        raise InputError(f'{path} is not a checkpoint: it holds no state dict.')
    return checkpoint


def _mmengine_globals() -> ContextManager:
    """Allow what MMEngine's message hub adds to every training checkpoint."""
    if not hasattr(torch.serialization, 'safe_globals'):
        return contextlib.nullcontext()
    core = getattr(np, '_core', None) or np.core
    return torch.serialization.safe_globals(
        [
            HistoryBuffer,
            (_history_method, 'builtins.getattr'),
            np.ndarray,
            np.dtype,
            core.multiarray._reconstruct,
            core.multiarray.scalar,
            *{type(np.dtype(t)) for t in (np.int64, np.uint32, np.float32, np.float64)},
        ]
    )


def _history_method(owner: Any, name: str) -> Any:
    """Stand in for getattr, which history buffers pickle their methods with."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError(f'Unsupported class {owner}')
    return getattr(owner, name)


def load_weights(
    model: nn.Module, state_dict: Dict[str, torch.Tensor], source: Union[str, Path]
) -> None:
    """Load a state dict that must fit the model exactly.

    Args:
        model (nn.Module): Filled in place.
        state_dict (dict): Weights and buffers by name.
        source (str | Path): Where they come from, for the message.

    Raises:
        InputError: If names or shapes differ.
    """
    if is_model_wrapper(model):
        model = model.module
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise InputError(
            f'{source} does not hold the weights of this network; the config and the '
            f'checkpoint must belong together. {_shorten(" ".join(reasons))}'
        ) from error


def _shorten(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[:limit] + ' ...'


@contextmanager
def replace_when_done(path: Union[str, Path]) -> Iterator[Path]:
    """Give a temporary name to write to; rename it if all went well.

    Args:
        path (str | Path): The final name.

    Yields:
        Path: A name in the same folder, with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
