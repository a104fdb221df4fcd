"""What several tests build on."""

import sys
from pathlib import Path

import pytest

# Test files are imported by path; this makes `reference` importable.
sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).parent.parent


@pytest.fixture
def configs():
    return ROOT / 'configs'
