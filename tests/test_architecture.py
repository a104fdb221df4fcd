"""The map of the modules stays complete."""

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
