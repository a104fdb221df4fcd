"""What the package says of itself in several places."""

import re

from conftest import ROOT


def test_the_oldest_python_is_the_same_everywhere():
    setup = (ROOT / 'setup.py').read_text()
    pyproject = (ROOT / 'pyproject.toml').read_text()
    oldest = re.search(r"python_requires='>=3\.(\d+)'", setup)[1]
    assert re.search(r'target-version = "py3(\d+)"', pyproject)[1] == oldest
