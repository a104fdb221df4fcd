"""Test the kernels' core alone, under sanitizers or emulation.

    python .dev/check_kernels.py            # AddressSanitizer and UBSan
    python .dev/check_kernels.py aarch64    # cross-compiled, run by qemu-aarch64
    python .dev/check_kernels.py native     # with the users' compiler flags
    python .dev/check_kernels.py threads    # ThreadSanitizer

Needs g++; for aarch64 Debian's g++-aarch64-linux-gnu and qemu-user.
"""

import argparse
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kernel_program import build_program

from mmcdnv2.ops.compiler import BuildError

SOURCE = Path(__file__).parent.parent / 'tests' / 'ops' / 'core_test.cpp'
SANITIZERS = ('-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-g')


def main() -> None:
    """Compile and run the test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('target', nargs='?', choices=['aarch64', 'native', 'threads'])
    parser.add_argument('--blocks', type=int, default=100)
    args = parser.parse_args()
    compiler, emulator, machine, flags = 'g++', [], platform.machine(), SANITIZERS
    if args.target == 'native':
        compiler, flags = 'c++', ()
    elif args.target == 'threads':
        flags = ('-fsanitize=thread', '-g')
    elif args.target == 'aarch64':
        compiler, machine, flags = 'aarch64-linux-gnu-g++', args.target, ('-static',)
        emulator = ['qemu-aarch64']
    for program in (compiler, *emulator):
        if shutil.which(program) is None:
            sys.exit(
                f'{program} was not found; on Debian: apt-get install g++ '
                'g++-aarch64-linux-gnu qemu-user'
            )
    with tempfile.TemporaryDirectory() as folder:
        print(f'Compiling with {" ".join((compiler, *flags))}.', flush=True)
        try:
            test = build_program(SOURCE, Path(folder), [compiler], machine, *flags)
        except BuildError as error:
            sys.exit(str(error))
        sys.exit(subprocess.call([*emulator, str(test), str(args.blocks)]))


if __name__ == '__main__':
    main()
