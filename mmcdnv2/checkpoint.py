"""Reading checkpoints of unknown origin."""

import codecs
import os
import pickle
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version
from torch import Tensor, nn

from .errors import InputError, UntrustedError


def load_checkpoint(path: Union[str, Path], trust: bool = False) -> Dict[str, Any]:
    """Read a checkpoint, tensors and plain data only.

    Args:
        path (str | Path): Path of the file.
        trust (bool): Whether to unpickle arbitrary objects, which can run
            code. Defaults to False.

    Returns:
        dict: The checkpoint, on the CPU.

    Raises:
        UntrustedError: If the file holds objects that only ``trust`` may load.
        InputError: If it is missing, damaged or no checkpoint.
    """
    if not os.path.isfile(path):
        raise InputError(f'There is no checkpoint {path}.')
    try:
        if trust:
            content = torch.load(path, map_location='cpu', weights_only=False)
        else:
            content = _load_safely(path)
    except Exception as error:
        # A damaged file may make the unpickler raise anything.
        refused = ('Unsupported global', 'Unsupported class', 'unrecognized function')
        if any(reason in str(error) for reason in refused):
            raise UntrustedError(
                f'{path} holds more than tensors and plain data, which may run code '
                'when it is loaded: if you trust where it comes from, set trust=True '
                '(trust_checkpoint=True for a runner).'
            ) from error
        raise InputError(f'{path} is damaged or not a checkpoint.') from error
    if not isinstance(content, dict):
        raise InputError(f'{path} is not a checkpoint: it holds no state dict.')
    return content


def weights_of(content: Dict[str, Any]) -> Dict[str, Tensor]:
    """Return the state dict of a checkpoint, which may be one itself."""
    return content.get('state_dict', content)


def load_weights(
    model: nn.Module, state_dict: Dict[str, Tensor], source: Union[str, Path]
) -> None:
    """Load a state dict that must fit the model exactly.

    Args:
        model (nn.Module): Filled in place.
        state_dict (dict): Weights and buffers by name.
        source (str | Path): Where they come from, for the message.

    Raises:
        InputError: If names or shapes differ.
    """
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        reasons = ' '.join(line.strip() for line in str(error).splitlines()[1:])
        raise InputError(
            f'{source} does not hold the weights of this network; the config and the '
            f'checkpoint must belong together. {reasons:.300}'
        ) from error


def _history_method(owner: Any, name: str) -> Any:
    """Stand in for getattr, which history buffers pickle their methods with."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError(f'Unsupported class {owner}')
    return getattr(owner, name)


def _allowed_globals() -> Dict[str, Any]:
    """Return the globals that MMEngine's message hub adds to training checkpoints."""
    reconstruct, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    allowed = {
        'builtins.getattr': _history_method,
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        'numpy.dtype': np.dtype,
        'numpy.ndarray': np.ndarray,
    }
    for kind in (np.int64, np.uint32, np.float32, np.float64):
        dtype = type(np.dtype(kind))
        allowed[f'{dtype.__module__}.{dtype.__name__}'] = dtype
    for package in ('numpy.core', 'numpy._core'):
        allowed[f'{package}.multiarray._reconstruct'] = reconstruct
        allowed[f'{package}.multiarray.scalar'] = scalar
    return allowed


def _load_safely(path: Union[str, Path]) -> Any:
    allowed = _allowed_globals()
    if digit_version(torch.__version__) >= digit_version('2.6'):
        pairs = [(value, name) for name, value in allowed.items()]
        with torch.serialization.safe_globals(pairs):
            return torch.load(path, map_location='cpu', weights_only=True)
    # Here weights_only knows no exceptions for history buffers; an unpickler
    # that knows nothing else is as strict.
    allowed.update(
        {
            '__builtin__.getattr': _history_method,
            '_codecs.encode': codecs.encode,
            'collections.OrderedDict': OrderedDict,
            'torch._utils._rebuild_parameter': torch._utils._rebuild_parameter,
            'torch._utils._rebuild_tensor_v2': torch._utils._rebuild_tensor_v2,
            'torch.Size': torch.Size,
        }
    )

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            try:
                return allowed[f'{module}.{name}']
            except KeyError:
                message = f'Unsupported class {module}.{name}'
                raise pickle.UnpicklingError(message) from None

    restricted = types.SimpleNamespace(
        __name__='pickle',
        Unpickler=Unpickler,
        load=lambda file, **kwargs: Unpickler(file, **kwargs).load(),
    )
    return torch.load(
        path, map_location='cpu', pickle_module=restricted, weights_only=False
    )
