"""The native kernels as ONNX Runtime operators."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

from ..errors import InputError
from .build import keep, kept_name
from .compiler import build_onnxruntime_library

if TYPE_CHECKING:
    import onnxruntime

# Session config entry with the session's number of threads.
THREADS = 'mmcdnv2.intra_op_num_threads'


def _build(target: Path, compiler: List[str]) -> None:
    build_onnxruntime_library(target, compiler, platform.machine())


def library_path() -> Path:
    """Build the operators for ONNX Runtime, or return them from the cache.

    Returns:
        Path: The library, for ``SessionOptions.register_custom_ops_library``.

    Raises:
        BuildError: If there is no compiler, it fails, or no cache folder is usable.
    """
    return keep(kept_name('libmmcdnv2_onnxruntime.so', 'onnxruntime'), _build)


def session_options(threads: Optional[int] = None) -> 'onnxruntime.SessionOptions':
    """Return session options with our operators registered.

    Args:
        threads (int, optional): Threads per operator. Defaults to one per core.

    Returns:
        onnxruntime.SessionOptions: The options.

    Raises:
        BuildError: If the operators cannot be compiled.
        InputError: If onnxruntime is not installed, or ``threads`` is below 1.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            'ONNX Runtime is not installed: pip install onnxruntime.'
        ) from error
    options = onnxruntime.SessionOptions()
    if threads is not None:
        if threads < 1:
            raise InputError(f'threads must be 1 or more, got {threads}.')
        options.intra_op_num_threads = threads
        # Operators cannot query their session; they read this when registered.
        options.add_session_config_entry(THREADS, str(threads))
    options.register_custom_ops_library(str(library_path()))
    return options
