"""Compile a program with the kernels' core, without PyTorch."""

from pathlib import Path
from typing import Sequence

from mmcdnv2.ops.compiler import FLAGS, compile_kernels, run_all


def build_program(
    source: Path, folder: Path, compiler: Sequence[str], machine: str, *flags: str
) -> Path:
    """Compile and link a program with the kernels for all instruction sets.

    Args:
        source (Path): The program's source file.
        folder (Path): Output folder.
        compiler (Sequence[str]): A C++ compiler and its arguments.
        machine (str): Target, as returned by ``platform.machine()``.
        flags (str): Additional flags, for example of a sanitizer.

    Returns:
        Path: The program.

    Raises:
        BuildError: If the compiler fails.
    """
    jobs = compile_kernels(folder, compiler, machine, flags)
    main = folder / 'main.o'
    command = [*compiler, *FLAGS, '-Wextra', *flags]
    command += ['-c', str(source), '-o', str(main)]
    jobs.insert(0, (command, main))
    run_all([command for command, _ in jobs])
    program = folder / 'program'
    objects = [str(path) for _, path in jobs]
    run_all([[*compiler, *flags, '-pthread', *objects, '-o', str(program)]])
    return program
