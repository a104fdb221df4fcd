"""Reading checkpoints of unknown origin."""

import codecs
import io
import math
import os
import pickle
import pickletools
import re
import tarfile
import types
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import IO, Any, Dict, List, NoReturn, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.utils import digit_version
from torch import Tensor, nn

from .errors import InputError, UntrustedError, in_one_line


def load_checkpoint(path: Union[str, Path], trust: bool = False) -> Dict[str, Any]:
    """Read a checkpoint, tensors and plain data only.

    Files of ``torch.save`` have checksums, which PyTorch writes but does not look
    at; here they must be right. Those in PyTorch's format before 1.6 have none.

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
        _check_checksums(path)
        if trust:
            content = torch.load(path, map_location='cpu', weights_only=False)
        else:
            content = _load_safely(path)
    except Exception as error:
        # The unpickler may raise anything on a damaged file.
        raise _explained(error, path, trust) from error
    if not isinstance(content, dict):
        raise InputError(f'{path} is not a checkpoint: it holds no state dict.')
    _check_parts(content, path)
    return content


def _check_checksums(path: Union[str, Path]) -> None:
    """Raise an error if a file of torch.save is damaged."""
    if not _is_zip(path):
        return
    with zipfile.ZipFile(path) as archive:
        # Where torch.serialization.set_crc32_options has turned them off, all are 0.
        if any(each.CRC for each in archive.infolist()) and archive.testzip():
            raise ValueError('a checksum is wrong')


def _is_zip(path: Union[str, Path]) -> bool:
    """Return whether a file is a zip archive, by the bytes that torch.load checks."""
    with open(path, 'rb') as stream:
        return stream.read(4) == b'PK\x03\x04'


def _explained(error: Exception, path: Union[str, Path], trust: bool) -> InputError:
    """Tell damage from distrust, by the file instead of the error's message."""
    try:
        _check_checksums(path)
        names = _pickled_globals(path)
    except Exception:
        names = None
    if names is not None and trust:
        return InputError(f'{path} cannot be loaded: {in_one_line(error)}')
    if names is None or not isinstance(error, pickle.UnpicklingError):
        return InputError(f'{path} is damaged or not a checkpoint.')
    # Those of tensors are not listed here.
    known, plain = _allowed_globals(), ('torch', 'collections', '_codecs')
    other = [n for n in names if n not in known and n.split('.')[0] not in plain]
    example = f' ({other[0]})' if other else ''
    return UntrustedError(
        f'{path} holds more than tensors and plain data{example}, which may run code '
        'when it is loaded: if you trust where it comes from, set trust=True '
        '(trust_checkpoint=True for a runner).'
    )


def _pickled_globals(path: Union[str, Path]) -> List[str]:
    """List the classes and functions that a checkpoint refers to.

    Raises an error unless the pickles of the checkpoint are complete.
    """
    with open(path, 'rb') as stream:
        # Magic number, version, system, content and the names of the storages.
        pickles: List[IO[bytes]] = [stream] * 5
        if _is_zip(path):
            with zipfile.ZipFile(stream) as archive:
                # torch.save puts all records into a folder.
                (name,) = (n for n in archive.namelist() if n.endswith('/data.pkl'))
                pickles = [io.BytesIO(archive.read(name))]
        return [
            str(argument).replace(' ', '.').replace('__builtin__', 'builtins')
            for each in pickles
            for opcode, argument, _ in pickletools.genops(each)
            if opcode.name == 'GLOBAL'
        ]


def _check_parts(content: Dict[str, Any], path: Union[str, Path]) -> None:
    """Refuse what is named as in a checkpoint, but is something else."""
    if 'state_dict' in content:
        check_state_dict(content['state_dict'], path)
    # None is what MMEngine takes for "no meta".
    meta = content.get('meta')
    parts = [('meta', meta)]
    if isinstance(meta, dict):
        parts.append(('meta.dataset_meta', meta.get('dataset_meta')))
    for name, part in parts:
        if part is None:
            continue
        if not isinstance(part, dict) or not all(isinstance(k, str) for k in part):
            raise InputError(
                f'{path} is not a checkpoint: its {name} is a {type(part).__name__}, '
                'a dict of names was expected.'
            )
        for key, value in part.items():
            if key.lower() != 'classes' or value is None:
                continue
            names = value.tolist() if isinstance(value, np.ndarray) else value
            names = names if isinstance(names, (list, tuple)) else [names]
            if not all(isinstance(n, str) for n in names):
                raise InputError(
                    f'{path} is not a checkpoint: its {name}.{key} is {value!r:.100}, '
                    'a list of names was expected.'
                )


def check_state_dict(state_dict: Any, source: Union[str, Path]) -> None:
    """Refuse what is no dict of tensors by their names.

    Args:
        state_dict (Any): What should be one.
        source (str | Path): Where it comes from, for the message.

    Raises:
        InputError: If it is something else.
    """
    if not isinstance(state_dict, dict):
        raise InputError(
            f'{source} is not a checkpoint: its state dict is a '
            f'{type(state_dict).__name__}, a dict was expected.'
        )
    for name, value in state_dict.items():
        # A module's extra state may be anything.
        if not isinstance(name, str) or not (
            isinstance(value, Tensor) or name.endswith('_extra_state')
        ):
            raise InputError(
                f'{source} is not a checkpoint: its state dict holds a '
                f'{type(value).__name__} as {name!r:.100}, tensors by their names '
                'were expected.'
            )


def check_finite(state_dict: Dict[str, Tensor], source: Union[str, Path]) -> None:
    """Refuse weights with which nothing can be calculated.

    Args:
        state_dict (dict): Weights and buffers by name.
        source (str | Path): Where they come from, for the message.

    Raises:
        InputError: If a weight is NaN or infinite.
    """
    for name, tensor in state_dict.items():
        if isinstance(tensor, Tensor) and not torch.isfinite(tensor).all():
            raise InputError(
                f'{source} has values in {name} that are no finite numbers: use an '
                'earlier checkpoint, or train again.'
            )


def weights_of(content: Dict[str, Any]) -> Dict[str, Tensor]:
    """Return the state dict of a checkpoint, which may be one itself.

    Args:
        content (dict): The checkpoint.

    Returns:
        dict: Weights and buffers by name, without the prefix ``module.`` of
        ``nn.DataParallel``, which MMEngine removes, too.
    """
    weights = content.get('state_dict', content)
    if not any(str(name).startswith('module.') for name in weights):
        return weights
    return {re.sub(r'^module\.', '', str(k)): value for k, value in weights.items()}


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers, whose names a checkpoint has.

    Args:
        model (nn.Module): A model, or one in a wrapper for several devices or for
            test-time augmentation.

    Returns:
        nn.Module: The model itself.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def load_weights(
    model: nn.Module, state_dict: Dict[str, Tensor], source: Union[str, Path]
) -> None:
    """Load a state dict that must fit the model exactly.

    Args:
        model (nn.Module): Filled in place; may be in a wrapper.
        state_dict (dict): Weights and buffers by name.
        source (str | Path): Where they come from, for the message.

    Raises:
        InputError: If names, shapes or types differ.
    """
    model = unwrap_model(model)
    check_state_dict(state_dict, source)
    check_types(model, state_dict, source)
    try:
        model.load_state_dict(state_dict)
    except InputError as error:
        # A layer names itself, but knows no file.
        raise InputError(f'{source} cannot be used: {error}') from error
    except RuntimeError as error:
        reasons = ' '.join(line.strip() for line in str(error).splitlines()[1:])
        raise InputError(
            f'{source} does not hold the weights of this network; the config and the '
            f'checkpoint must belong together. {reasons:.300}'
        ) from error


def check_types(
    model: nn.Module, state_dict: Dict[str, Tensor], source: Union[str, Path]
) -> None:
    """Refuse what PyTorch would turn into other numbers.

    Args:
        model (nn.Module): Not filled yet.
        state_dict (dict): Weights and buffers by name.
        source (str | Path): Where they come from, for the message.

    Raises:
        InputError: If something else is there for floats.
    """
    for name, own in model.state_dict().items():
        value = state_dict.get(name)
        # Masks and indices are looked at by their layers; counts do no harm.
        if not isinstance(value, Tensor) or not own.is_floating_point():
            continue
        if not value.is_floating_point() or value.layout != torch.strided:
            raise InputError(
                f'{source} does not hold the weights of this network: {name} has '
                f'{value.dtype} and {value.layout}, floats in a dense tensor were '
                'expected.'
            )


# Stands in for the class, whose functions are needed, but no instances.
_ONE_CYCLE = object()
# Functions that MMEngine pickles as attributes, by their owner and name. A history
# buffer has these in its state unless a user added to them.
_ATTRIBUTES = {
    **{
        (HistoryBuffer, name): getattr(HistoryBuffer, name)
        for name in ('current', 'max', 'mean', 'min')
    },
    **{
        (_ONE_CYCLE, name): getattr(OneCycleParamScheduler, name)
        for name in ('_annealing_cos', '_annealing_linear')
    },
}


def _attribute(owner: Any, name: str) -> Any:
    """Stand in for getattr, with which functions of classes are pickled."""
    try:
        return _ATTRIBUTES[owner, name]
    except KeyError:
        raise pickle.UnpicklingError(f'Unsupported class {owner}.{name}') from None


def _allowed_globals() -> Dict[str, Any]:
    """Return the globals that checkpoints of MMEngine hold in addition to tensors."""
    reconstruct, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    allowed = {
        # Empty arrays are pickled with it.
        'builtins.bytes': bytes,
        'builtins.getattr': _attribute,
        'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
        f'{OneCycleParamScheduler.__module__}.OneCycleParamScheduler': _ONE_CYCLE,
        'numpy.dtype': np.dtype,
        'numpy.ndarray': np.ndarray,
    }
    # Types of numbers, texts and times; neither objects nor structures.
    for code in np.typecodes['AllInteger'] + np.typecodes['AllFloat'] + '?SUMm':
        dtype = type(np.dtype(code))
        allowed[f'{dtype.__module__}.{dtype.__name__}'] = dtype
    for package in ('numpy.core', 'numpy._core'):
        allowed[f'{package}.multiarray._reconstruct'] = reconstruct
        allowed[f'{package}.multiarray.scalar'] = scalar
    # Python 3.13 moved them.
    for module in ('pathlib', 'pathlib._local'):
        allowed[f'{module}.PosixPath'] = allowed[f'{module}.WindowsPath'] = Path
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
            '__builtin__.bytes': bytes,
            '__builtin__.getattr': _attribute,
            '_codecs.encode': codecs.encode,
            'collections.Counter': Counter,
            'collections.OrderedDict': OrderedDict,
            'torch._utils._rebuild_parameter': torch._utils._rebuild_parameter,
            'torch._utils._rebuild_tensor_v2': torch._utils._rebuild_tensor_v2,
            'torch.Size': torch.Size,
        }
    )

    class Unpickler(_StrictUnpickler):
        known = allowed

    restricted = types.SimpleNamespace(
        __name__='pickle',
        Unpickler=Unpickler,
        load=lambda file, **kwargs: Unpickler(file, **kwargs).load(),
    )
    # These, torch.load reads in ways of its own. A script runs code of its own.
    if _is_script(path) or tarfile.is_tarfile(path):
        raise ValueError('a script or a file of PyTorch 0.1')
    return torch.load(
        path, map_location='cpu', pickle_module=restricted, weights_only=False
    )


def _is_script(path: Union[str, Path]) -> bool:
    """Return whether torch.load would take a file for one of torch.jit.save.

    Its own reader is asked, as others may understand an odd archive differently.
    """
    if not _is_zip(path):
        return False
    records = torch._C.PyTorchFileReader(str(path)).get_all_records()
    return 'constants.pkl' in records


def _check_numpy_state(thing: Any, state: Any) -> None:
    """Raise something unless NumPy can take a state, as it would crash."""
    if isinstance(thing, np.dtype):
        kind = thing.str
        if thing.kind in 'Mm':
            # The unit of times is in the state alone.
            unit, number = state[8][1][:2]
            kind = f'{thing.kind}8[{number}{unit.decode()}]'
        if state != np.dtype(kind).newbyteorder(state[1]).__reduce__()[2]:
            raise pickle.UnpicklingError('not a plain type')
        return
    _, shape, dtype, _, content = state
    sizes = [size for size in shape if type(size) is int and size >= 0]
    if (
        not isinstance(dtype, np.dtype)
        or dtype.kind not in 'biufcSUMm'
        or not isinstance(content, bytes)
        or type(shape) is not tuple
        or len(sizes) != len(shape)
        or len(content) != math.prod(sizes) * dtype.itemsize
    ):
        raise pickle.UnpicklingError('not a plain array')


# In Python, so that single steps can be refused; types do not know its methods.
_PythonUnpickler: Any = pickle._Unpickler


class _StrictUnpickler(_PythonUnpickler):
    """An unpickler that calls what it knows, and changes only what it has made.

    pickle's own would call whatever a file got hold of, an attribute of an attribute
    for instance, and set attributes of classes and functions.
    """

    known: Dict[str, Any] = {}
    dispatch: Dict[int, Any] = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.known[f'{module}.{name}']
        except KeyError:
            self._refuse(f'{module}.{name}')

    def load_reduce(self) -> None:
        function = self.stack[-2]
        if not any(function is each for each in self.known.values()):
            self._refuse(function)
        _PythonUnpickler.load_reduce(self)

    def load_newobj(self) -> None:
        if self.stack[-2] is not HistoryBuffer:
            self._refuse(self.stack[-2])
        _PythonUnpickler.load_newobj(self)

    def load_build(self) -> None:
        thing, state = self.stack[-2:]
        if not any(type(thing) is each for each in self.known.values()):
            self._refuse(type(thing))
        if isinstance(thing, (np.dtype, np.ndarray)):
            _check_numpy_state(thing, state)
        _PythonUnpickler.load_build(self)

    def _refuse(self, what: Any = 'of an old or a rare kind') -> NoReturn:
        raise pickle.UnpicklingError(f'Unsupported class {what}')

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    # Nothing that PyTorch writes has them.
    for _code in ['INST', 'OBJ', 'NEWOBJ_EX', 'EXT1', 'EXT2', 'EXT4']:
        dispatch[getattr(pickle, _code)[0]] = _refuse
