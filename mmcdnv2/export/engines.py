"""Running exported files."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Union

import numpy as np

from ..errors import InputError
from ..ops.build import BuildError

ENGINES = ('onnxruntime', 'openvino')

Run = Callable[[Dict[str, np.ndarray]], Dict[str, np.ndarray]]


def check_packages(*names: str) -> None:
    """Refuse to go on without packages that not everyone needs.

    Args:
        names (str): Names of packages, which are those of their modules.

    Raises:
        InputError: If one is missing, with what installs them.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        needed = 'them' if len(missing) > 1 else 'it'
        raise InputError(
            f'{" and ".join(missing)} must be installed, to export or to run exported '
            f'files; this installs {needed}: pip install {" ".join(missing)}'
        )


def open_engine(
    model: Union[str, Path, bytes],
    engine: str = 'onnxruntime',
    threads: Optional[int] = None,
    native: bool = False,
) -> Run:
    """Load a file into an engine.

    Args:
        model (str | Path | bytes): The file, or what is in it.
        engine (str): One of :data:`ENGINES`. Defaults to 'onnxruntime'.
        threads (int, optional): Number of threads. Defaults to the engine's.
        native (bool): Whether it has operators of ours. Defaults to False.

    Returns:
        Callable: Takes inputs by their names, returns outputs by theirs.

    Raises:
        InputError: If the engine is missing or cannot run it.
    """
    if engine not in ENGINES:
        raise InputError(f'There is no engine {engine}: {" or ".join(ENGINES)}.')
    check_packages(engine)
    if native and engine != 'onnxruntime':
        raise InputError(
            f'{engine} does not know the native operators: export the file with '
            'operators=standard.'
        )
    content = model if isinstance(model, bytes) else str(model)
    open_it = _open_onnxruntime if engine == 'onnxruntime' else _open_openvino
    try:
        return open_it(content, threads, native)
    except (InputError, ImportError):
        raise
    except BuildError as error:
        raise InputError(f'The native operators cannot be built: {error}') from error
    except Exception as error:
        # Each engine has its own kinds of errors.
        reason = ' '.join(str(error).split())
        raise InputError(f'{engine} cannot load the file: {reason:.300}') from error


def _open_onnxruntime(content: Any, threads: Optional[int], native: bool) -> Run:
    import onnxruntime

    if native:
        from ..ops.onnxruntime_library import session_options

        options = session_options(threads)
    else:
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its warnings are of nodes that it leaves out, which is no one's concern.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        content, options, providers=['CPUExecutionProvider']
    )
    names = [each.name for each in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs)))


def _open_openvino(content: Any, threads: Optional[int], native: bool) -> Run:
    import openvino

    core = openvino.Core()
    options: Dict[str, Any] = dict(
        PERFORMANCE_HINT='LATENCY',
        # Some processors would calculate in bfloat16.
        INFERENCE_PRECISION_HINT='f32',
    )
    if threads is not None:
        options.update(
            INFERENCE_NUM_THREADS=threads,
            # The process may be pinned as a whole.
            ENABLE_CPU_PINNING=False,
        )
    network = core.compile_model(core.read_model(content), 'CPU', options)
    outputs = [(each, each.get_any_name()) for each in network.outputs]

    def run(inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        found = network(inputs)
        return {name: np.array(found[each]) for each, name in outputs}

    return run
