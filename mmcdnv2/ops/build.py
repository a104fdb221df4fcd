"""Compile the native kernels for PyTorch, and keep what was compiled.

The sources need no more than a C++17 compiler and the headers that PyTorch
brings. torch.utils.cpp_extension would not do: it needs ninja, links against
Python, compiles all sources with the same flags, whereas the inner loops are
compiled once for each instruction set, and waits forever for the lock of a build
that was killed. What was compiled is kept, so that only the first process waits. It is
kept with its checksum at the end, where the loader does not look: to load what
a full disk has left of it would kill the process. The checksum does not help against
people. Against them, a library is loaded only from a folder of this user or root, to
which no one else may write.
"""

import hashlib
import os
import platform
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, List

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


class _UntrustedError(OSError):
    """Another user may write here."""


def kept_name(name: str, host: str, *made_with: str) -> Path:
    """Name a library for the sources as they are.

    Args:
        name (str): Name of the file.
        host (str): The folder of the sources besides the core's.
        made_with (str): What else it depends on.

    Returns:
        Path: In a folder, both relative to where libraries are kept.
    """
    digest = hashlib.sha256()
    for folder in ('core', host):
        for path in sorted((SOURCES / folder).glob('*.?pp')):
            digest.update(f'{folder}/{path.name} '.encode() + path.read_bytes())
    for path in (Path(__file__), Path(compiler_module.__file__)):
        digest.update(path.read_bytes())
    digest.update(' '.join(made_with).encode())
    return Path(f'{platform.machine()}-{digest.hexdigest()[:16]}', name)


def cache_folders() -> List[Path]:
    """List the folders where libraries are kept, of which the first usable is used."""
    cache = os.environ.get('XDG_CACHE_HOME', '')
    if not os.path.isabs(cache):
        # This stays as it is where nothing tells the home folder, as in a container
        # that runs as any user. A relative one would depend on where one stands.
        cache = os.path.expanduser('~/.cache')
    folders = [Path(cache, 'mmcdnv2', 'ops')] if os.path.isabs(cache) else []
    temporary = os.environ.get('TMPDIR', '')
    if not os.path.isabs(temporary):
        temporary = '/tmp'
    # Directly in /tmp, which is sticky: other users cannot replace the checked folder.
    return [*folders, Path(temporary, f'mmcdnv2-{os.geteuid()}')]


def _check_private(folder: Path) -> None:
    """Check that only this user and root can write to a folder.

    Args:
        folder (Path): One of :func:`cache_folders`.

    Raises:
        _UntrustedError: If other users can, or it is not a folder.
        OSError: If it does not exist.
    """
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode):
        raise _UntrustedError(f'{folder} is not a folder')
    if info.st_uid not in (0, os.geteuid()):
        raise _UntrustedError(f'{folder} belongs to another user')
    if info.st_mode & 0o022:
        raise _UntrustedError(f'other users may write to {folder}')


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Wait until no other process compiles; yield whether that is sure.

    A lock ends with its process, however that ends.
    """
    # Windows has none.
    import fcntl

    descriptor = os.open(folder / '.lock', os.O_RDWR | os.O_CREAT, 0o600)
    is_sure = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_log('Waiting for another process that compiles the native kernels.')
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            # Not all file systems have locks.
            is_sure = False
        yield is_sure
    finally:
        if is_sure:
            # Not by closing alone: a process that was forked has it open, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _is_intact(library: Path) -> bool:
    """Return whether a library exists and has the checksum that was written."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    size = len(_checksum(b''))
    return _checksum(content[:-size]) == content[-size:]


def keep(name: Path, make: Callable[[Path, List[str]], None]) -> Path:
    """Make a library unless it is there, whole, and of no other user.

    Args:
        name (Path): See :func:`kept_name`.
        make (callable): Called with the file to write and the compiler's command.

    Returns:
        Path: The library.

    Raises:
        BuildError: If there is no compiler or it fails, or there is no folder for it.
    """
    if platform.system() != 'Linux':
        raise BuildError(f'the kernels are for Linux, not {platform.system()}')
    folders = cache_folders()
    rejected = []
    for folder in folders:
        try:
            _check_private(folder)
            if _is_intact(folder / name):
                return folder / name
        except _UntrustedError as error:
            rejected.append(str(error))
        except OSError:
            # The folder does not exist yet.
            pass
    try:
        compiler = find_compiler()
    except BuildError as error:
        raise BuildError('; '.join([*rejected, str(error)])) from error
    rejected = []
    for folder in folders:
        if rejected:
            print_log(f'Instead of {rejected[-1]}, the native kernels go to {folder}.')
        try:
            return _make_in(folder, name, make, compiler)
        except OSError as error:
            rejected.append(f'{folder} ({error})')
    raise BuildError(f'they cannot be built in {" or in ".join(rejected)}')


def _make_in(
    folder: Path,
    name: Path,
    make: Callable[[Path, List[str]], None],
    compiler: List[str],
) -> Path:
    """Make a library in one of the folders; raise an OSError if it is of no use."""
    target = folder / name
    for each in (*reversed(folder.parents), folder):
        each.mkdir(0o700, exist_ok=True)
    _check_private(folder)
    with _locked(folder) as is_alone:
        # Another process may have made it in the meantime.
        if _is_intact(target):
            return target
        if is_alone:
            for killed in folder.glob('.build-*'):
                shutil.rmtree(killed, ignore_errors=True)
        target.parent.mkdir(0o700, exist_ok=True)
        print_log('Compiling the native kernels, once (half a minute or more).')
        with tempfile.TemporaryDirectory(prefix='.build-', dir=folder) as temporary:
            library = Path(temporary) / target.name
            make(library, compiler)
            content = library.read_bytes()
            library.write_bytes(content + _checksum(content))
            # Whatever the umask.
            library.chmod(0o600)
            os.replace(library, target)
    return target


def _library_name() -> Path:
    """Name of the library for these sources and this PyTorch."""
    abi = str(torch.compiled_with_cxx11_abi())
    return kept_name('libmmcdnv2_ops.so', 'torch', torch.__version__, abi)


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
        BuildError: If there is no compiler or it fails, or there is no folder for it.
    """
    return keep(_library_name(), _build)


if __name__ == '__main__':
    print(build())
