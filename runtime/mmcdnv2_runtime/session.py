"""Brings the operators of condensed networks into ONNX Runtime."""

import os
import platform
import struct
from pathlib import Path
from typing import Optional

import onnxruntime

from .errors import ModelError, first_line

# The first with KernelContext_ParallelFor, on which the operators run.
_OLDEST = (1, 17)
# Of ELF's header: magic, processor, where the table of sections starts, the length of
# an entry, and how many there are.
_HEADER = struct.Struct('<4s14xH20xQ10xHH2x')
# ELF's numbers of the processors that the library is built for.
_MACHINES = {62: 'x86_64', 183: 'aarch64'}
_THREADS_KEY = 'mmcdnv2.intra_op_num_threads'


def library_path() -> Path:
    """Return the path of the operators' library.

    Returns:
        Path: For ``SessionOptions.register_custom_ops_library``, and for any
        other language's bindings of ONNX Runtime.

    Raises:
        ModelError: If it is missing, or is another processor's.
    """
    path = Path(__file__).parent / 'libmmcdnv2_onnxruntime.so'
    try:
        size = path.stat().st_size
        with path.open('rb') as stream:
            header = stream.read(_HEADER.size)
    except OSError as error:
        raise ModelError(
            f'{path} cannot be read ({error.strerror}); install mmcdnv2-runtime '
            'again, from a wheel or by "pip install ./runtime" in a clone.'
        ) from error
    number, end = 0, size + 1
    if len(header) == _HEADER.size:
        magic, number, start, length, count = _HEADER.unpack(header)
        # What stands last in the file. To load a part of one kills the process.
        end = start + length * count
    if end > size or magic != b'\x7fELF':
        raise ModelError(f'{path} is damaged; install mmcdnv2-runtime again.')
    machine = _MACHINES.get(number, f'processor {number} of ELF')
    if (platform.system(), platform.machine()) != ('Linux', machine):
        raise ModelError(
            f'{path} is built for Linux on {machine}, but this is '
            f'{platform.system()} on {platform.machine()}; install the wheel of '
            'mmcdnv2-runtime for this machine.'
        )
    return path


def session_options(threads: Optional[int] = None) -> onnxruntime.SessionOptions:
    """Make options for a session that runs a file with our operators.

    Args:
        threads (int, optional): How many threads run one network. Defaults to
            None, one for each core that this process may use.

    Returns:
        onnxruntime.SessionOptions: The library is registered.

    Raises:
        ModelError: If the library cannot be loaded here.
    """
    options = plain_options(threads)
    path = library_path()
    try:
        options.register_custom_ops_library(str(path))
    # ONNX Runtime's errors have no common class.
    except Exception as error:
        raise ModelError(f'{path} cannot be loaded: {first_line(error)}.') from error
    return options


def plain_options(threads: Optional[int]) -> onnxruntime.SessionOptions:
    """Make the same options without the library.

    Args:
        threads (int, optional): As in :func:`session_options`.

    Returns:
        onnxruntime.SessionOptions: The options.

    Raises:
        ModelError: If ONNX Runtime is too old.
        ValueError: If threads is not positive.
    """
    version = onnxruntime.__version__
    if tuple(int(part) for part in version.split('.')[:2]) < _OLDEST:
        raise ModelError(
            f'onnxruntime {version} is too old; install 1.17 or newer '
            '(pip install --upgrade onnxruntime).'
        )
    if threads is None:
        threads = _cores()
    if threads < 1:
        raise ValueError(f'A positive number of threads was expected, not {threads}.')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Our operators cannot ask ONNX Runtime for it. They look when the library is
    # registered.
    options.add_session_config_entry(_THREADS_KEY, str(threads))
    return options


def _cores() -> int:
    """Count the cores that this process may use; two threads of one are one."""
    usable = os.sched_getaffinity(0)
    siblings = set()
    for number in usable:
        path = Path(f'/sys/devices/system/cpu/cpu{number}/topology')
        try:
            siblings.add((path / 'thread_siblings_list').read_text())
        except OSError:
            return len(usable)
    return len(siblings)
