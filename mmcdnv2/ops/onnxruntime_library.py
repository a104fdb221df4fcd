"""The native kernels as operators of ONNX Runtime."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

from ..errors import InputError
from .build import keep, kept_name
from .compiler import build_onnxruntime_library

if TYPE_CHECKING:
    import onnxruntime

# Session config entry: how many threads a session has.
THREADS = 'mmcdnv2.intra_op_num_threads'


def _build(target: Path, compiler: List[str]) -> None:
    build_onnxruntime_library(target, compiler, platform.machine())


def library_path() -> Path:
    """Compile the operators for ONNX Runtime unless they are there, and whole.

    Returns:
        Path: The library, to be registered with the options of a session.

    Raises:
        BuildError: If there is no compiler or it fails.
    """
    return keep(kept_name('libmmcdnv2_onnxruntime.so', 'onnxruntime'), _build)


def session_options(threads: Optional[int] = None) -> 'onnxruntime.SessionOptions':
    """Make options for sessions that run files with our operators.

    Args:
        threads (int, optional): Threads that run one operator. Defaults to one for
            each core.

    Returns:
        onnxruntime.SessionOptions: With our operators registered.

    Raises:
        BuildError: If the operators cannot be compiled.
        InputError: If onnxruntime is not installed, or the threads are not one or more.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError('This needs ONNX Runtime: pip install onnxruntime.') from error
    options = onnxruntime.SessionOptions()
    if threads is not None:
        if threads < 1:
            raise InputError(f'threads must be 1 or more, got {threads}.')
        options.intra_op_num_threads = threads
        # The operators cannot ask a session; it is read as they are registered.
        options.add_session_config_entry(THREADS, str(threads))
    options.register_custom_ops_library(str(library_path()))
    return options
