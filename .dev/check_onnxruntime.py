"""Test the operators for ONNX Runtime on several of its versions, or under sanitizers.

    python .dev/check_onnxruntime.py             # the versions below
    python .dev/check_onnxruntime.py 1.20.1      # another one
    python .dev/check_onnxruntime.py sanitizers  # AddressSanitizer and UBSan

Each version is installed in a folder that is deleted again, and goes before that of the
environment. Needs what the tests need; the sanitizers g++.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).parent.parent
# The oldest that will do, one between, the newest that was tried.
VERSIONS = ['1.17.3', '1.23.2', '1.32.0']
TOO_OLD = '1.16.3'
TESTS = 'tests/ops/test_onnxruntime_library.py'
VERSION = 'import onnxruntime; print(onnxruntime.__version__)'
REGISTER = 'from mmcdnv2.ops.onnxruntime_library import *; session_options()'
SANITIZERS = '-fsanitize=address,undefined -fno-sanitize-recover=all -g'


def run(command: List[str], **variables: str) -> 'subprocess.CompletedProcess[str]':
    """Run a Python command on the sources here.

    Args:
        command (list[str]): What follows the name of the interpreter.
        variables (str): Environment variables, PYTHONPATH for what goes first.

    Returns:
        subprocess.CompletedProcess: With its output.
    """
    path = os.pathsep.join([variables.pop('PYTHONPATH', ''), str(ROOT)]).strip(':')
    return subprocess.run(
        [sys.executable, '-W', 'ignore', *command],
        env=dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1', **variables),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def install(version: str, folder: Path) -> None:
    """Install a version of ONNX Runtime and the NumPy that it can be used with."""
    packages = [f'onnxruntime=={version}']
    if int(version.split('.')[1]) < 19:
        packages.append('numpy<2')
    pip = ['-m', 'pip', 'install', '-q', '--no-deps', '--target', str(folder)]
    result = run([*pip, *packages])
    if result.returncode:
        sys.exit(result.stdout)


def test(*options: str, **variables: str) -> bool:
    """Run the tests; say what they say."""
    result = run(['-m', 'pytest', TESTS, *options], **variables)
    lines = result.stdout.strip().splitlines()
    # Nothing is proved by tests that were left out.
    passed = not result.returncode and 'skipped' not in lines[-1]
    print('\n'.join(lines[-1 if passed else 0 :]), flush=True)
    return passed


def check_version(version: str) -> bool:
    """Run the tests on a version, or see it refused."""
    with tempfile.TemporaryDirectory() as folder:
        install(version, Path(folder))
        found = run(['-c', VERSION], PYTHONPATH=folder).stdout.strip()
        print(f'ONNX Runtime {found}:', flush=True)
        if found != version:
            return False
        if version != TOO_OLD:
            return test(PYTHONPATH=folder)
        result = run(['-c', REGISTER], PYTHONPATH=folder)
        print(result.stdout.strip().splitlines()[-1], flush=True)
        return f'need ONNX Runtime 1.17 or newer, not {version}' in result.stdout


def check_sanitizers() -> bool:
    """Run the tests on a library that the sanitizers watch."""
    if shutil.which('g++') is None:
        sys.exit('g++ was not found; on Debian: apt-get install g++')
    # The sanitizer looks for the C++ library at the start, and Python has none.
    libraries = [
        subprocess.check_output(['g++', f'-print-file-name={name}'], text=True).strip()
        for name in ('libasan.so', 'libstdc++.so')
    ]
    variables: Dict[str, str] = dict(
        CXX=f'g++ {SANITIZERS}',
        LD_PRELOAD=' '.join(libraries),
        # Python itself leaves memory behind.
        ASAN_OPTIONS='detect_leaks=0:halt_on_error=1',
        # PyTorch's side is tested elsewhere.
        MMCDNV2_KERNELS='0',
    )
    with tempfile.TemporaryDirectory() as cache:
        print(f'Compiling with {variables["CXX"]}.', flush=True)
        # The sanitizer takes more memory than that test allows.
        return test('-s', '-k', 'not memory', XDG_CACHE_HOME=cache, **variables)


def main() -> None:
    """Check what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('targets', nargs='*', default=[TOO_OLD, *VERSIONS])
    failed = [
        target
        for target in parser.parse_args().targets
        if not (check_sanitizers() if target == 'sanitizers' else check_version(target))
    ]
    if failed:
        sys.exit(f'Failed: {", ".join(failed)}.')


if __name__ == '__main__':
    main()
