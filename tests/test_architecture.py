"""The map of the code is true, and imports and words go one way."""

import re

from conftest import ROOT

PACKAGE = ROOT / 'mmcdnv2'
TEXT = (ROOT / 'ARCHITECTURE.md').read_text()


def test_every_folder_has_its_row():
    rows = '\n'.join(line for line in TEXT.splitlines() if line.startswith('| `'))
    folders = {path.parent.relative_to(PACKAGE) for path in PACKAGE.glob('*/*.py')}
    missing = [str(folder) for folder in folders if f'`{folder}/`' not in rows]
    assert not missing


def test_every_named_path_exists():
    names = set(re.findall(r'`([\w/.]+(?:\.[ch]pp|\.py|/))`', TEXT))
    assert len(names) > 30
    places = (ROOT, PACKAGE, *PACKAGE.iterdir(), PACKAGE / 'ops' / 'csrc' / 'core')
    gone = [n for n in names if not any((place / n).exists() for place in places)]
    assert not gone


def test_only_cli_speaks_of_command_lines():
    for path in PACKAGE.rglob('*.py'):
        if path.name != 'cli.py':
            text = path.read_text()
            assert not re.search(r'--[a-z]+-[a-z]', text), path
            assert not re.search(r'argparse|import cli|\.cli\b', text), path


def test_the_package_does_not_know_the_laboratory():
    for path in PACKAGE.rglob('*.py'):
        assert not re.search(r'^\s*(from|import) lab\b', path.read_text(), re.M), path
