"""The map of the modules stays complete, and imports and words go one way."""

import re

from conftest import ROOT

PACKAGE = ROOT / 'mmcdnv2'


def test_every_module_has_its_line():
    lines = (ROOT / 'ARCHITECTURE.md').read_text().splitlines()
    listed = {line.split('`')[1] for line in lines if line.startswith('| `')}
    modules = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob('*.py')
        # These only say what a folder offers.
        if path.name != '__init__.py'
    }
    assert modules <= listed, f'not in ARCHITECTURE.md: {sorted(modules - listed)}'


def test_only_cli_speaks_of_command_lines():
    for path in PACKAGE.rglob('*.py'):
        if path.name != 'cli.py':
            text = path.read_text()
            assert not re.search(r'--[a-z]+-[a-z]', text), path
            assert not re.search(r'argparse|import cli|\.cli\b', text), path
