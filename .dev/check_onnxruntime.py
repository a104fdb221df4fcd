"""Test the ONNX Runtime operators with several versions, or under sanitizers.

    python .dev/check_onnxruntime.py             # the versions below
    python .dev/check_onnxruntime.py 1.20.1      # another version
    python .dev/check_onnxruntime.py sanitizers  # AddressSanitizer and UBSan

Each version is installed in a temporary folder that precedes the environment. Needs
the tests' requirements; the sanitizers need g++.
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
# The oldest supported version, one between, the newest tested.
VERSIONS = ['1.17.3', '1.23.2', '1.32.0']
TOO_OLD = '1.16.3'
TESTS = 'tests/ops/test_onnxruntime_library.py'
VERSION = 'import onnxruntime; print(onnxruntime.__version__)'
REGISTER = 'from mmcdnv2.ops.onnxruntime_library import *; session_options()'
SANITIZERS = '-fsanitize=address,undefined -fno-sanitize-recover=all -g'


def run(command: List[str], **variables: str) -> 'subprocess.CompletedProcess[str]':
    """Run a Python command with this source tree.

    Args:
        command (list[str]): The interpreter's arguments.
        variables (str): Environment variables; PYTHONPATH goes before this tree.

    Returns:
        subprocess.CompletedProcess: The result with its output.
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
    """Install a version of ONNX Runtime and a compatible NumPy."""
    packages = [f'onnxruntime=={version}']
    if int(version.split('.')[1]) < 19:
        packages.append('numpy<2')
    pip = ['-m', 'pip', 'install', '-q', '--no-deps', '--target', str(folder)]
    result = run([*pip, *packages])
    if result.returncode:
        sys.exit(result.stdout)


def test(*options: str, **variables: str) -> bool:
    """Run the tests, print their result and return whether they passed."""
    result = run(['-m', 'pytest', TESTS, *options], **variables)
    lines = result.stdout.strip().splitlines()
    # Skipped tests count as a failure.
    passed = not result.returncode and 'skipped' not in lines[-1]
    print('\n'.join(lines[-1 if passed else 0 :]), flush=True)
    return passed


def check_version(version: str) -> bool:
    """Run the tests with a version, or check that it is rejected as too old."""
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
    """Run the tests with a library compiled with the sanitizers."""
    if shutil.which('g++') is None:
        sys.exit('g++ was not found; on Debian: apt-get install g++')
    # The sanitizer needs libstdc++ at start-up, and Python does not load it.
    libraries = [
        subprocess.check_output(['g++', f'-print-file-name={name}'], text=True).strip()
        for name in ('libasan.so', 'libstdc++.so')
    ]
    variables: Dict[str, str] = dict(
        CXX=f'g++ {SANITIZERS}',
        LD_PRELOAD=' '.join(libraries),
        # Python itself leaks memory at exit.
        ASAN_OPTIONS='detect_leaks=0:halt_on_error=1',
        # The PyTorch operators are tested elsewhere.
        MMCDNV2_KERNELS='0',
    )
    with tempfile.TemporaryDirectory() as cache:
        print(f'Compiling with {variables["CXX"]}.', flush=True)
        # The sanitizer needs more memory than the memory test allows.
        return test('-s', '-k', 'not memory', XDG_CACHE_HOME=cache, **variables)


def main() -> None:
    """Check the given targets."""
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
