"""Compile the native kernels' sources that do not depend on PyTorch.

This module imports only the standard library, so that it can be loaded by its path
where the rest of the package cannot be imported.
"""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import List, NamedTuple, Sequence, Tuple

SOURCES = Path(__file__).parent / 'csrc'
FLAGS = ('-std=c++17', '-O3', '-fPIC', '-Wall', '-iquote', str(SOURCES))


class InstructionSet(NamedTuple):
    """An instruction set that the kernels are compiled for.

    Attributes:
        name (str): Namespace of the compiled kernels.
        lanes (int): float32 lanes per vector.
        registers (int): Number of vector registers.
        flags (tuple[str]): Compiler flags.
    """

    name: str
    lanes: int
    registers: int
    flags: Tuple[str, ...] = ()


def instruction_sets(machine: str) -> List[InstructionSet]:
    """Return the instruction sets to compile for; the best available one runs.

    Args:
        machine (str): As returned by ``platform.machine()``.

    Returns:
        list[InstructionSet]: At least 'baseline', which every such processor
        supports (SSE2 or NEON).
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
    """Raised if the kernels cannot be compiled; the message has the reason."""


def compile_kernels(
    folder: Path, compiler: Sequence[str], machine: str, extra: Sequence[str] = ()
) -> List[Tuple[List[str], Path]]:
    """Return the commands that compile the inner loops.

    Args:
        folder (Path): Folder for the object files.
        compiler (Sequence[str]): A C++ compiler and its arguments.
        machine (str): Target, as returned by ``platform.machine()``.
        extra (Sequence[str]): Additional flags.

    Returns:
        list[tuple[list[str], Path]]: Commands and their output files.
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
    """Run commands in parallel.

    Args:
        commands (Sequence[Sequence[str]]): The commands.

    Raises:
        BuildError: If one fails; the message has its output.
    """
    running = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Compilers print messages in the user's language and encoding.
            errors='replace',
        )
        for command in commands
    ]
    outputs = [process.communicate()[0] for process in running]
    for command, process, output in zip(commands, running, outputs):
        if process.returncode:
            raise BuildError(f'{" ".join(command)} failed:\n{output}')


def find_compiler() -> List[str]:
    """Return the compiler command: ``$CXX`` or ``c++``.

    Returns:
        list[str]: The compiler and its arguments.

    Raises:
        BuildError: If it does not exist.
    """
    variable = os.environ.get('CXX', '')
    try:
        # May contain arguments or a launcher such as ccache.
        compiler = shlex.split(variable) or ['c++']
    except ValueError as error:
        raise BuildError(f'CXX={variable} is not a command: {error}') from error
    if shutil.which(compiler[0]) is None:
        raise BuildError(
            f'there is no C++ compiler {compiler[0]} (set CXX or install c++)'
        )
    return compiler


def build_onnxruntime_library(
    target: Path, compiler: Sequence[str], machine: str
) -> None:
    """Compile and link the operators for ONNX Runtime.

    The build does not need ONNX Runtime, and the library works with several versions.

    Args:
        target (Path): The library to write.
        compiler (Sequence[str]): A C++ compiler for the machine and its arguments.
        machine (str): Target, as returned by ``platform.machine()``.

    Raises:
        BuildError: If the compiler fails.
    """
    # Next to the library, where the caller removes leftovers of killed builds.
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        hidden = ('-fvisibility=hidden', '-ffunction-sections', '-fdata-sections')
        jobs = compile_kernels(folder, compiler, machine, hidden)
        operators = folder / 'operators.o'
        source = SOURCES / 'onnxruntime' / 'operators.cpp'
        command = [*compiler, *FLAGS, *hidden, '-c', str(source), '-o', str(operators)]
        jobs.insert(0, (command, operators))
        run_all([command for command, _ in jobs])
        # libstdc++ is linked statically, as older systems have an older one, and not
        # exported, as the process may have loaded another one.
        exports = folder / 'exports'
        exports.write_text('{ global: RegisterCustomOps; local: *; };\n')
        link = [*compiler, '-shared', *(str(path) for _, path in jobs)]
        link += ['-static-libstdc++', f'-Wl,-version-script={exports}', '-s']
        # nodelete: ONNX Runtime unloads the library with the last session.
        link += ['-Wl,-gc-sections', '-Wl,-z,nodelete', '-o', str(target)]
        run_all([link])
