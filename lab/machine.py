"""Describe the machine."""

import platform
from pathlib import Path


def processor_name() -> str:
    """Return the name of the processor."""
    # On Linux, platform.processor() is 'x86_64' or empty.
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1] for line in lines if line.startswith('model name')]
    return names[0].strip() if names else platform.processor() or platform.machine()
