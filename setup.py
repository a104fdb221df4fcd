"""Package mmcdnv2, with configs, tools and model index where mim looks."""

import os
import shutil
from pathlib import Path
from typing import Dict, List

from setuptools import find_packages, setup
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


class BuildWithMim(build_py):
    """Add the folder .mim that mim finds configs, tools and models in.

    A wheel gets copies; an editable installation gets links, so that they
    follow the sources.
    """

    def run(self) -> None:
        """Build the package and the folder."""
        super().run()
        root = ROOT if self.editable_mode else Path(self.build_lib).resolve()
        target = root / 'mmcdnv2' / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            source, place = ROOT / name, target / name
            if self.editable_mode:
                place.symlink_to(os.path.relpath(source, target))
            elif source.is_dir():
                ignore = shutil.ignore_patterns('__pycache__')
                shutil.copytree(source, place, ignore=ignore)
            else:
                shutil.copy(source, place)


if __name__ == '__main__':
    setup(
        name='mmcdnv2',
        version=read_version(),
        description='CondenseNetV2 backbones for MMDetection and MMPreTrain',
        long_description=(ROOT / 'README.md').read_text(),
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        packages=find_packages(include=['mmcdnv2', 'mmcdnv2.*']),
        python_requires='>=3.8',
        install_requires=read_requirements('runtime'),
        extras_require={
            'mim': read_requirements('mminstall'),
            'demo': read_requirements('demo'),
            'tests': read_requirements('tests'),
        },
        cmdclass={'build_py': BuildWithMim},
        zip_safe=False,
    )
