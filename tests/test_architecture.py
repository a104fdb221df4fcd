"""The map of the modules stays complete, and imports and words go one way."""

import re

from conftest import ROOT

PACKAGE = ROOT / 'mmcdnv2'
RUNTIME = ROOT / 'runtime' / 'mmcdnv2_runtime'


def test_every_module_has_its_line():
    lines = (ROOT / 'ARCHITECTURE.md').read_text().splitlines()
    rows = [line.split(' | ')[0] for line in lines if line.startswith('| `')]
    listed = {name for row in rows for name in row.split('`')[1::2]}
    modules = {
        path.relative_to(root).as_posix()
        for root, folder in ((PACKAGE, PACKAGE), (RUNTIME.parent, RUNTIME))
        for path in folder.rglob('*.py')
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
