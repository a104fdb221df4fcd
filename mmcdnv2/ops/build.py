"""Compile the native kernels for PyTorch and cache the library.

The build needs only a C++17 compiler and PyTorch's headers.
torch.utils.cpp_extension is not used: it needs ninja, links against Python, cannot
compile the inner loops once per instruction set, and waits forever for the lock of a
killed build. A checksum is appended to the cached library, where the loader ignores
it, because loading a truncated library kills the process. Against tampering, the
library is loaded only from a folder of this user or root to which no one else may
write.
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
    """Raised if other users may write to a cache folder."""


def kept_name(name: str, backend: str, *made_with: str) -> Path:
    """Return a library's path in the cache, with a digest of the sources.

    Args:
        name (str): Name of the file.
        backend (str): Folder of sources to compile in addition to the core's.
        made_with (str): Other dependencies, such as the version of PyTorch.

    Returns:
        Path: Path relative to the cache folder.
    """
    digest = hashlib.sha256()
    for folder in ('core', backend):
        for path in sorted((SOURCES / folder).glob('*.?pp')):
            digest.update(f'{folder}/{path.name} '.encode() + path.read_bytes())
    for path in (Path(__file__), Path(compiler_module.__file__)):
        digest.update(path.read_bytes())
    digest.update(' '.join(made_with).encode())
    return Path(f'{platform.machine()}-{digest.hexdigest()[:16]}', name)


def cache_folders() -> List[Path]:
    """Return the candidate cache folders, in order of preference."""
    cache = os.environ.get('XDG_CACHE_HOME', '')
    if not os.path.isabs(cache):
        # Stays '~/.cache' without a home folder, as in a container with an unknown
        # user. Relative paths are skipped: they depend on the current folder.
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
    """Lock the folder against other builds; yield False if locks are unsupported.

    The lock is released when its process ends, even if it is killed.
    """
    # Not available on Windows.
    import fcntl

    descriptor = os.open(folder / '.lock', os.O_RDWR | os.O_CREAT, 0o600)
    is_locked = True
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_log('Waiting for another process that compiles the native kernels.')
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            # Not all file systems support locks.
            is_locked = False
        yield is_locked
    finally:
        if is_locked:
            # Closing is not enough: a forked process also has the file open.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _is_intact(library: Path) -> bool:
    """Return whether a library exists and matches its checksum."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    size = len(_checksum(b''))
    return _checksum(content[:-size]) == content[-size:]


def keep(name: Path, make: Callable[[Path, List[str]], None]) -> Path:
    """Return the cached library, after building it if needed.

    Args:
        name (Path): Path from :func:`kept_name`.
        make (callable): Called with the file to write and the compiler's command.

    Returns:
        Path: The library.

    Raises:
        BuildError: If there is no compiler, it fails, or no cache folder is usable.
    """
    if platform.system() != 'Linux':
        raise BuildError(f'the kernels need Linux, this is {platform.system()}')
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
            print_log(
                f'Building the native kernels in {folder} instead of {rejected[-1]}.'
            )
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
    """Build a library in a cache folder; raise OSError if that is not possible."""
    target = folder / name
    for each in (*reversed(folder.parents), folder):
        each.mkdir(0o700, exist_ok=True)
    _check_private(folder)
    with _locked(folder) as is_locked:
        # Another process may have built it in the meantime.
        if _is_intact(target):
            return target
        if is_locked:
            # Left over from killed builds.
            for killed in folder.glob('.build-*'):
                shutil.rmtree(killed, ignore_errors=True)
        target.parent.mkdir(0o700, exist_ok=True)
        print_log('Compiling the native kernels once (half a minute or more).')
        with tempfile.TemporaryDirectory(prefix='.build-', dir=folder) as temporary:
            library = Path(temporary) / target.name
            make(library, compiler)
            content = library.read_bytes()
            library.write_bytes(content + _checksum(content))
            library.chmod(0o600)
            os.replace(library, target)
    return target


def _library_name() -> Path:
    """Return the name of the library for these sources and this PyTorch."""
    abi = str(torch.compiled_with_cxx11_abi())
    return kept_name('libmmcdnv2_ops.so', 'torch', torch.__version__, abi)


def _build(target: Path, compiler: List[str]) -> None:
    """Compile and link the operators for PyTorch."""
    root = Path(torch.__file__).parent
    folder = target.parent
    jobs = compile_kernels(folder, compiler, platform.machine())
    operators = folder / 'operators.o'
    # at::parallel_for is a template that runs in parallel only with OpenMP. OpenMP is
    # not linked, so that the library uses PyTorch's when it is loaded.
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
    """Build the library, or return it from the cache.

    Returns:
        Path: The library, for ``torch.ops.load_library``.

    Raises:
        BuildError: If there is no compiler, it fails, or no cache folder is usable.
    """
    return keep(_library_name(), _build)


if __name__ == '__main__':
    print(build())
