"""Make the clone's ``lab`` package importable; imported first by tools that need it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if not (ROOT / 'lab').is_dir():
    sys.exit(
        'error: this tool needs the folder lab/, which the installed package does not '
        'contain: clone the repository and run the tool from the clone.'
    )
sys.path.insert(0, str(ROOT))
