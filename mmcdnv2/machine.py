"""The machine: its processor and the cores that may be used."""

import os
import platform
from pathlib import Path


def processor_name() -> str:
    """Return the name of the processor."""
    # On Linux, platform.processor() is 'x86_64' or empty.
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1] for line in lines if line.startswith('model name')]
    return names[0].strip() if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
