"""The machine: its processor and the cores that may be used."""

import os
import platform
from pathlib import Path


def processor_name() -> str:
    """Name of the processor."""
    # Python's own name for it is 'x86_64' or nothing at all on Linux.
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1] for line in lines if line.startswith('model name')]
    return names[0].strip() if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
