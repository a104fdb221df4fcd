"""Build the wheels of mmcdnv2-runtime, natively and by cross-compiling.

    python .dev/build_runtime_wheels.py [--out dist] [x86_64] [aarch64]

A wheel for another processor needs a cross-compiler, on Debian g++-aarch64-linux-gnu
or g++-x86-64-linux-gnu. Without names this builds each wheel that has a compiler,
reports missing compilers, and fails only if this processor's wheel is not built. With
names, each of them must be built.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

RUNTIME = Path(__file__).resolve().parent.parent / 'runtime'
MACHINES = ('x86_64', 'aarch64')


def compiler_for(machine: str) -> str:
    """Return the compiler for an architecture."""
    if machine == platform.machine():
        return os.environ.get('CXX') or 'c++'
    return f'{machine}-linux-gnu-g++'


def build(machine: str, folder: Path) -> Path:
    """Build one wheel.

    Args:
        machine (str): The architecture.
        folder (Path): Output folder.

    Returns:
        Path: The wheel.
    """
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps']
    # The build dependencies are already in the environment.
    command += ['--no-build-isolation', '-w', str(folder), str(RUNTIME)]
    status = subprocess.call(command, env=dict(os.environ, CXX=compiler_for(machine)))
    if status:
        sys.exit(status)
    (wheel,) = folder.glob(f'mmcdnv2_runtime-*_{machine}.whl')
    return wheel


def main() -> None:
    """Build the wheels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('machines', nargs='*', metavar='|'.join(MACHINES))
    parser.add_argument('--out', type=Path, default=RUNTIME.parent / 'dist')
    args = parser.parse_args()
    missing = []
    for machine in args.machines or MACHINES:
        if machine not in MACHINES:
            sys.exit(f'{machine} must be one of {", ".join(MACHINES)}.')
        compiler = compiler_for(machine)
        if shutil.which(compiler.split()[0]) is None:
            missing.append(machine)
            package = f'g++-{machine.replace("_", "-")}-linux-gnu'
            print(
                f'No wheel for {machine}: its compiler {compiler} was not found; on '
                f'Debian: apt-get install {package}',
                file=sys.stderr,
            )
            continue
        # Only what is whole goes where others look for it.
        with tempfile.TemporaryDirectory() as folder:
            wheel = build(machine, Path(folder))
            with zipfile.ZipFile(wheel) as archive:
                size = sum(item.file_size for item in archive.infolist())
            args.out.mkdir(parents=True, exist_ok=True)
            target = args.out / wheel.name
            shutil.copy(wheel, target)
            print(
                f'{os.path.relpath(target)}: {target.stat().st_size / 1e6:.2f} MB, '
                f'{size / 1e6:.2f} MB installed',
                flush=True,
            )
    if set(missing) & set(args.machines or [platform.machine()]):
        sys.exit(1)


if __name__ == '__main__':
    main()
