"""Package mmcdnv2, with configs, tools and model index for mim."""

import os
import shutil
import sys
from pathlib import Path
from typing import Dict, List

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Return __version__ without importing the package."""
    scope: Dict[str, str] = {}
    exec((ROOT / 'mmcdnv2' / 'version.py').read_text(), scope)
    return scope['__version__']


def read_requirements(name: str) -> List[str]:
    """Return the requirement lines of requirements/NAME.txt."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def add_mim_extension() -> None:
    """Put what mim looks for into mmcdnv2/.mim.

    Links for an editable installation, so that they follow the sources, and
    copies for a wheel.
    """
    editable = 'develop' in sys.argv or 'editable_wheel' in sys.argv
    target = ROOT / 'mmcdnv2' / '.mim'
    target.mkdir(exist_ok=True)
    for name in ('configs', 'tools', 'model-index.yml'):
        source, copy = ROOT / name, target / name
        if copy.is_symlink() or copy.is_file():
            copy.unlink()
        elif copy.is_dir():
            shutil.rmtree(copy)
        if editable:
            copy.symlink_to(os.path.relpath(source, target))
        elif source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(source, copy)


if __name__ == '__main__':
    if {'develop', 'editable_wheel', 'bdist_wheel', 'install'} & set(sys.argv):
        add_mim_extension()
    setup(
        name='mmcdnv2',
        version=read_version(),
        description='CondenseNetV2 and SFR backbones for MMDetection and MMPreTrain',
        long_description=(ROOT / 'README.md').read_text(),
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        packages=find_packages(include=['mmcdnv2', 'mmcdnv2.*']),
        include_package_data=True,
        python_requires='>=3.8',
        install_requires=read_requirements('runtime'),
        extras_require={
            'mim': read_requirements('mminstall'),
            'demo': read_requirements('demo'),
            'tests': read_requirements('tests'),
        },
        zip_safe=False,
    )
