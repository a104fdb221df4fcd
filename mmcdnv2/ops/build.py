"""Compile the native kernels for PyTorch, and keep what was compiled.

The sources need no more than a C++17 compiler and the headers that PyTorch
brings. torch.utils.cpp_extension would not do: it needs ninja, links against
Python, compiles all sources with the same flags, whereas the inner loops are
compiled once for each instruction set, and waits forever for the lock of a build
that was killed. What was compiled is kept, so that only the first process waits. It is
kept with its checksum at the end, where the loader does not look: to load what
a full disk has left of it would kill the process.
"""

import hashlib
import os
import platform
import tempfile
from pathlib import Path
from typing import Callable, List

import torch
from mmengine.logging import print_log

from . import compiler as compiler_module
from .compiler import (
    FLAGS,
    SOURCES,
    BuildError,
    compile_kernels,
    find_compiler,
    run_all,
)


def kept_path(name: str, host: str, *made_with: str) -> Path:
    """Path of a library for the sources as they are.

    Args:
        name (str): Name of the file.
        host (str): The folder of the sources besides the core's.
        made_with (str): What else it depends on.

    Returns:
        Path: Where it is kept, or would be.

    Raises:
        BuildError: If nothing tells where to keep it.
    """
    digest = hashlib.sha256()
    for folder in ('core', host):
        for path in sorted((SOURCES / folder).glob('*.?pp')):
            digest.update(f'{folder}/{path.name} '.encode() + path.read_bytes())
    for path in (Path(__file__), Path(compiler_module.__file__)):
        digest.update(path.read_bytes())
    digest.update(' '.join(made_with).encode())
    cache = Path(os.environ.get('XDG_CACHE_HOME', ''))
    if not cache.is_absolute():
        try:
            cache = Path.home() / '.cache'
        except RuntimeError as error:
            raise BuildError(
                'there is no home folder to keep them in (set XDG_CACHE_HOME)'
            ) from error
    return (
        cache
        / 'mmcdnv2'
        / 'ops'
        / f'{platform.machine()}-{digest.hexdigest()[:16]}'
        / name
    )


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _is_whole(library: Path) -> bool:
    """Whether a library is there, just as it was written."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    size = len(_checksum(b''))
    return _checksum(content[:-size]) == content[-size:]


def keep(target: Path, make: Callable[[Path, List[str]], None]) -> Path:
    """Make a library unless it is there, and whole.

    Args:
        target (Path): See :func:`kept_path`.
        make (callable): Called with the file to write and the compiler's command.

    Returns:
        Path: The library.

    Raises:
        BuildError: If there is no compiler or it fails.
    """
    if _is_whole(target):
        return target
    if platform.system() != 'Linux':
        raise BuildError(f'the kernels are for Linux, not {platform.system()}')
    compiler = find_compiler()
    print_log('Compiling the native kernels, once (half a minute or more).')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be doing the same; the last one to rename wins.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            library = Path(folder) / target.name
            make(library, compiler)
            content = library.read_bytes()
            library.write_bytes(content + _checksum(content))
            os.replace(library, target)
    except OSError as error:
        raise BuildError(f'they cannot be built in {target.parent}: {error}') from error
    return target


def library_path() -> Path:
    """Path of the library for these sources and this PyTorch.

    Raises:
        BuildError: If nothing tells where to keep it.
    """
    abi = str(torch.compiled_with_cxx11_abi())
    return kept_path('libmmcdnv2_ops.so', 'torch', torch.__version__, abi)


def _build(target: Path, compiler: List[str]) -> None:
    """Compile and link the operators for PyTorch."""
    root = Path(torch.__file__).parent
    folder = target.parent
    jobs = compile_kernels(folder, compiler, platform.machine())
    operators = folder / 'operators.o'
    # at::parallel_for is a template that is parallel with OpenMP only. It
    # must find PyTorch's own when it is loaded, so it is not linked.
    command = [*compiler, *FLAGS, '-fopenmp']
    command += [
        f'-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}',
        '-isystem',
        str(root / 'include'),
        '-isystem',
        str(root / 'include' / 'torch' / 'csrc' / 'api' / 'include'),
    ]
    source = SOURCES / 'torch' / 'operators.cpp'
    command += ['-c', str(source), '-o', str(operators)]
    # The slowest first.
    jobs.insert(0, (command, operators))
    run_all([command for command, _ in jobs])
    link = [*compiler, '-shared', *(str(path) for _, path in jobs)]
    link += [f'-L{root / "lib"}', '-ltorch_cpu', '-lc10', '-o', str(target)]
    run_all([link])


def build() -> Path:
    """Compile the library unless it is there, and whole.

    Returns:
        Path: The library, to be loaded by ``torch.ops.load_library``.

    Raises:
        BuildError: If there is no compiler or it fails.
    """
    return keep(library_path(), _build)


if __name__ == '__main__':
    print(build())
