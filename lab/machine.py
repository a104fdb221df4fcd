"""What the machine is, in words."""

import platform
from pathlib import Path


def processor_name() -> str:
    """Name of the processor."""
    # Python's own name for it is 'x86_64' or nothing at all on Linux.
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1] for line in lines if line.startswith('model name')]
    return names[0].strip() if names else platform.processor() or platform.machine()
