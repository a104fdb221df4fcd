"""Package mmcdnv2, with configs, tools and model index where mim looks."""

import shutil
from pathlib import Path
from typing import Dict, List

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Return __version__ without importing the package."""
    scope: Dict[str, str] = {}
    exec((ROOT / 'mmcdnv2' / 'version.py').read_text(), scope)
    return scope['__version__']


def read_requirements(name: str) -> List[str]:
    """Return the requirements in requirements/NAME.txt."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def copy_mim(folder: Path) -> None:
    """Copy all that mim looks for into FOLDER/.mim."""
    target = folder / '.mim'
    ignore = shutil.ignore_patterns('__pycache__')
    for name in ('configs', 'tools'):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    shutil.copy(ROOT / 'model-index.yml', target)


class BuildWithMim(build_py):
    """Add the folder .mim to the package, where openmim looks.

    An editable installation does without: onedl-mim takes the clone's own
    folders then, and would find every config twice.
    """

    def run(self) -> None:
        """Build the package and the folder."""
        if not self.editable_mode:
            # What an earlier build left here would be packed again.
            shutil.rmtree(Path(self.build_lib) / 'mmcdnv2', ignore_errors=True)
        super().run()
        if not self.editable_mode:
            copy_mim(Path(self.build_lib) / 'mmcdnv2')


class WheelWithMim(Distribution().get_command_class('bdist_wheel')):
    """Add the folder .mim to the wheel's .dist-info as well.

    onedl-mim 0.5.1 takes the first folder in the list of installed files for
    the package. pip sorts that list, and ``mmcdnv2-0.1.0.dist-info`` comes
    before ``mmcdnv2/``.
    """

    def write_wheelfile(self, wheelfile_base: str, *args, **kwargs) -> None:
        """Complete the .dist-info."""
        super().write_wheelfile(wheelfile_base, *args, **kwargs)
        if 'editable_wheel' not in self.distribution.commands:
            copy_mim(Path(wheelfile_base))


if __name__ == '__main__':
    setup(
        name='mmcdnv2',
        version=read_version(),
        description='CondenseNetV2 backbones for MMDetection and MMPreTrain',
        long_description=(ROOT / 'README.md').read_text(),
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        packages=find_packages(include=['mmcdnv2', 'mmcdnv2.*']),
        # The kernels are compiled where they are used, for the PyTorch there.
        package_data={'mmcdnv2': ['py.typed'], 'mmcdnv2.ops': ['csrc/*/*.?pp']},
        # The oldest of all that requirements/stacks run on, and ruff's target version.
        python_requires='>=3.8',
        install_requires=read_requirements('runtime'),
        extras_require={
            'mim': read_requirements('mminstall'),
            'benchmark': read_requirements('benchmark') + read_requirements('export'),
            'demo': read_requirements('demo') + read_requirements('export'),
            'export': read_requirements('export'),
            'tests': read_requirements('tests'),
        },
        cmdclass={'build_py': BuildWithMim, 'bdist_wheel': WheelWithMim},
        zip_safe=False,
    )
