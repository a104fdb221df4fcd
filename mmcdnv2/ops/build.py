"""Compile the native kernels.

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
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import List, NamedTuple, Sequence, Tuple

import torch
from mmengine.logging import print_log

SOURCES = Path(__file__).parent / 'csrc'
FLAGS = ('-std=c++17', '-O3', '-fPIC', '-Wall', '-iquote', str(SOURCES))


class InstructionSet(NamedTuple):
    """A way to compile the kernels for some processors.

    Attributes:
        name (str): Namespace of the compiled kernels.
        lanes (int): float32 numbers in a vector.
        registers (int): Vector registers.
        flags (tuple[str]): Flags of the compiler.
    """

    name: str
    lanes: int
    registers: int
    flags: Tuple[str, ...] = ()


def instruction_sets(machine: str) -> List[InstructionSet]:
    """List what the kernels are compiled for; the processor's best is run.

    Args:
        machine (str): As ``platform.machine()`` names it.

    Returns:
        list[InstructionSet]: At least 'baseline', which every processor of
        that name can run (SSE2 or NEON).
    """
    if machine == 'x86_64':
        avx2 = ('-mavx2', '-mfma')
        avx512 = tuple(f'-mavx512{part}' for part in ('f', 'bw', 'dq', 'vl'))
        return [
            InstructionSet('avx512', 16, 32, avx2 + avx512),
            InstructionSet('avx2', 8, 16, avx2),
            InstructionSet('baseline', 4, 16),
        ]
    return [InstructionSet('baseline', 4, 32 if machine == 'aarch64' else 16)]


class BuildError(RuntimeError):
    """The kernels cannot be compiled here; the message says why."""


def compile_kernels(
    folder: Path, compiler: Sequence[str], machine: str, extra: Sequence[str] = ()
) -> List[Tuple[List[str], Path]]:
    """Compile the part that knows nothing of PyTorch.

    Args:
        folder (Path): Where the object files go.
        compiler (Sequence[str]): A C++ compiler and its arguments.
        machine (str): What it compiles for.
        extra (Sequence[str]): More flags.

    Returns:
        list[tuple[list[str], Path]]: Commands and what they write.
    """
    jobs = []
    for isa in instruction_sets(machine):
        target = folder / f'kernels_{isa.name}.o'
        command = [*compiler, *FLAGS, '-ffp-contract=fast', *isa.flags, *extra]
        command += [
            f'-DMMCDNV2_ISA={isa.name}',
            f'-DMMCDNV2_LANES={isa.lanes}',
            f'-DMMCDNV2_REGISTERS={isa.registers}',
        ]
        command += ['-c', str(SOURCES / 'core' / 'kernels.cpp'), '-o', str(target)]
        jobs.append((command, target))
    return jobs


def run_all(commands: Sequence[Sequence[str]]) -> None:
    """Run commands at the same time.

    Args:
        commands (Sequence[Sequence[str]]): The commands.

    Raises:
        BuildError: If one fails; with what it said.
    """
    running = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Compilers speak the user's language, in whatever encoding.
            errors='replace',
        )
        for command in commands
    ]
    outputs = [process.communicate()[0] for process in running]
    for command, process, output in zip(commands, running, outputs):
        if process.returncode:
            raise BuildError(f'{" ".join(command)} failed:\n{output}')


def library_path() -> Path:
    """Path of the library for these sources and this PyTorch.

    Raises:
        BuildError: If nothing tells where to keep it.
    """
    digest = hashlib.sha256()
    for path in sorted(SOURCES.rglob('*.?pp')):
        digest.update(f'{path.relative_to(SOURCES)} '.encode() + path.read_bytes())
    digest.update(Path(__file__).read_bytes())
    digest.update(f'{torch.__version__} {torch.compiled_with_cxx11_abi()}'.encode())
    cache = Path(os.environ.get('XDG_CACHE_HOME', ''))
    if not cache.is_absolute():
        try:
            cache = Path.home() / '.cache'
        except RuntimeError as error:
            raise BuildError(
                'there is no home folder to keep them in (set XDG_CACHE_HOME)'
            ) from error
    name = f'{platform.machine()}-{digest.hexdigest()[:16]}'
    return cache / 'mmcdnv2' / 'ops' / name / 'libmmcdnv2_ops.so'


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


def _compiler() -> List[str]:
    """Return the command that compiles, or say why there is none."""
    variable = os.environ.get('CXX', '')
    try:
        # It may bring arguments, or a launcher such as ccache.
        compiler = shlex.split(variable) or ['c++']
    except ValueError as error:
        raise BuildError(f'CXX={variable} is not a command: {error}') from error
    if shutil.which(compiler[0]) is None:
        raise BuildError(
            f'there is no C++ compiler {compiler[0]} (set CXX or install c++)'
        )
    return compiler


def build() -> Path:
    """Compile the library unless it is there, and whole.

    Returns:
        Path: The library, to be loaded by ``torch.ops.load_library``.

    Raises:
        BuildError: If there is no compiler or it fails.
    """
    target = library_path()
    if _is_whole(target):
        return target
    if platform.system() != 'Linux':
        raise BuildError(f'the kernels are for Linux, not {platform.system()}')
    compiler = _compiler()
    print_log('Compiling the native kernels, once (half a minute or more).')
    root = Path(torch.__file__).parent
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be doing the same; the last one to rename wins.
        with tempfile.TemporaryDirectory(dir=target.parent) as name:
            folder = Path(name)
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
            library = folder / target.name
            link = [*compiler, '-shared', *(str(path) for _, path in jobs)]
            link += [f'-L{root / "lib"}', '-ltorch_cpu', '-lc10', '-o', str(library)]
            run_all([link])
            content = library.read_bytes()
            library.write_bytes(content + _checksum(content))
            os.replace(library, target)
    except OSError as error:
        raise BuildError(f'they cannot be built in {target.parent}: {error}') from error
    return target


if __name__ == '__main__':
    print(build())
