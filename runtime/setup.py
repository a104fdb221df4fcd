"""Package mmcdnv2-runtime: compiles the operators from the sources of the clone.

``$CXX`` or ``c++`` compiles, and says for which processor.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Dict, List, Tuple

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
LIBRARY = 'libmmcdnv2_onnxruntime.so'
# What ONNX Runtime is there for, on Linux.
MACHINES = ('x86_64', 'aarch64')


def load_compiler() -> ModuleType:
    """Load the module that compiles, without the package, which needs PyTorch."""
    name = 'mmcdnv2_compiler'
    path = ROOT.parent / 'mmcdnv2' / 'ops' / 'compiler.py'
    if not path.exists():
        sys.exit(
            f'error: {path} was expected; mmcdnv2-runtime is built in a clone of '
            'mmcdnv2.'
        )
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Where classes with annotations look for their module.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def read_version() -> str:
    """Return the version of mmcdnv2 without importing it."""
    scope: Dict[str, str] = {}
    exec((ROOT.parent / 'mmcdnv2' / 'version.py').read_text(), scope)
    return scope['__version__']


def target_machine(compiler: List[str]) -> str:
    """Return the processor that a compiler compiles for."""
    triple = subprocess.run(
        [*compiler, '-dumpmachine'], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    machine = triple.split('-')[0]
    if machine not in MACHINES or 'linux' not in triple:
        sys.exit(
            f'error: mmcdnv2-runtime is for Linux on {" and ".join(MACHINES)}, but '
            f'{" ".join(compiler)} compiles for {triple}.'
        )
    return machine


def platform_tag(library: Path, machine: str) -> str:
    """Tell which systems can load a library.

    Args:
        library (Path): The library. All else that it needs is in it.
        machine (str): Its processor.

    Returns:
        str: manylinux_2_X for the newest version of the C library that it asks
        for (PEP 600); just linux if that is not glibc.
    """
    versions = re.findall(rb'\0GLIBC_2\.(\d+)(?:\.\d+)?(?=\0)', library.read_bytes())
    if not versions:
        return f'linux_{machine}'
    # Neither pip nor onnxruntime knows older systems.
    return f'manylinux_2_{max(17, *map(int, versions))}_{machine}'


class DistributionWithLibrary(Distribution):
    """Keeps the package where others with compiled parts are."""

    def has_ext_modules(self) -> bool:
        """Say that there is more than Python in it."""
        return True


class BuildWithLibrary(build_py):
    """Add the library to the package."""

    def run(self) -> None:
        """Build the package and the library."""
        folder = ROOT / 'mmcdnv2_runtime'
        # setuptools has it since 64, which an environment may not have.
        if not getattr(self, 'editable_mode', False):
            folder = Path(self.build_lib) / 'mmcdnv2_runtime'
            # What an earlier build left here would be packed again.
            shutil.rmtree(folder, ignore_errors=True)
        super().run()
        compiler = load_compiler()
        try:
            command = compiler.find_compiler()
            compiler.build_onnxruntime_library(
                folder / LIBRARY, command, target_machine(command)
            )
        except (compiler.BuildError, OSError) as error:
            sys.exit(f'error: the operators cannot be compiled: {error}')


class WheelForPlatform(Distribution().get_command_class('bdist_wheel')):
    """Name the wheel by the systems on which its library can be loaded."""

    def get_tag(self) -> Tuple[str, str, str]:
        """Return the tag: any Python 3, without its C interface."""
        machine = target_machine(load_compiler().find_compiler())
        build = self.get_finalized_command('build_py')
        library = Path(build.build_lib) / 'mmcdnv2_runtime' / LIBRARY
        # An editable installation's library stays on its machine.
        if 'editable_wheel' in self.distribution.commands:
            return 'py3', 'none', f'linux_{machine}'
        return 'py3', 'none', platform_tag(library, machine)


if __name__ == '__main__':
    setup(
        name='mmcdnv2-runtime',
        version=read_version(),
        description='Run networks that mmcdnv2 exported in ONNX Runtime',
        long_description=(ROOT / 'README.md').read_text(),
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        packages=['mmcdnv2_runtime'],
        package_data={'mmcdnv2_runtime': ['py.typed']},
        python_requires='>=3.8',
        install_requires=['numpy', 'onnxruntime>=1.17', 'pillow>=9.2'],
        entry_points={'console_scripts': ['mmcdnv2-run = mmcdnv2_runtime.cli:main']},
        distclass=DistributionWithLibrary,
        cmdclass={'build_py': BuildWithLibrary, 'bdist_wheel': WheelForPlatform},
        zip_safe=False,
    )
