"""What the package says of itself in several places."""

import re

from conftest import ROOT


def test_the_oldest_python_is_the_same_everywhere():
    setup = (ROOT / 'setup.py').read_text()
    pyproject = (ROOT / 'pyproject.toml').read_text()
    stacks = [
        re.search(r'^# Python: (.*)', path.read_text(), re.M)[1].split()
        for path in (ROOT / 'requirements' / 'stacks').glob('*.txt')
    ]
    oldest = min(int(version[len('3.') :]) for stack in stacks for version in stack)
    assert f"python_requires='>=3.{oldest}'" in setup
    assert f'target-version = "py3{oldest}"' in pyproject
