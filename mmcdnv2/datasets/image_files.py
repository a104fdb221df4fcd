"""Finds images that are missing or not whole, by the ends of their files."""

import io
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Callable, Dict, List, Optional, Sequence, Tuple, TypeVar

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

T = TypeVar('T')

# A file's disk is waited for by several threads at once.
_THREADS = 8
_CHUNK = 256
# A page; the size of nearly every image is within.
_HEAD = 4096
_TAIL = 64
_JPEG, _JPEG_SCAN, _JPEG_END = b'\xff\xd8\xff', b'\xff\xda', b'\xff\xd9'
_PNG, _PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'


@dataclass
class ImageReport:
    """What was found in images.

    Attributes:
        faults (dict[int, str]): By the places of bad images what they are:
            'missing', 'unreadable', 'empty', 'truncated' or 'no image'.
        sizes (dict[int, tuple[int]]): Width and height of those images whose
            head tells.
        looked_into (int): How many were opened.
    """

    faults: Dict[int, str] = field(default_factory=dict)
    sizes: Dict[int, Tuple[int, int]] = field(default_factory=dict)
    looked_into: int = 0


def look_into_images(
    paths: Sequence[str], seconds: float, description: str
) -> ImageReport:
    """Look whether images are there and whole, without decoding them.

    Args:
        paths (Sequence[str]): Their files.
        seconds (float): How long files are opened; that all are there is
            looked at in any case, and first.
        description (str): Of the progress that is shown on a terminal.

    Returns:
        ImageReport: What was found. If any is missing, none was opened.
    """
    report = ImageReport()
    order = list(range(len(paths)))
    for i, fault in _each(_stat_fault, paths, order, None, description):
        if fault:
            report.faults[i] = fault
    if report.faults:
        return report
    # If time runs out, what was opened stands for the others.
    Random(0).shuffle(order)
    for i, (fault, size) in _each(_look_into, paths, order, seconds, description):
        report.looked_into += 1
        if fault:
            report.faults[i] = fault
        if size:
            report.sizes[i] = size
    report.faults = dict(sorted(report.faults.items()))
    return report


def _each(
    function: Callable[[str], T],
    paths: Sequence[str],
    order: List[int],
    seconds: Optional[float],
    description: str,
) -> List[Tuple[int, T]]:
    """Call a function of files by several threads, until the time is over."""
    ends = None if seconds is None else time.monotonic() + seconds

    def work(chunk: List[int]) -> List[Tuple[int, T]]:
        if ends is not None and time.monotonic() > ends:
            return []
        return [(i, function(paths[i])) for i in chunk]

    chunks = [order[i : i + _CHUNK] for i in range(0, len(order), _CHUNK)]
    results: List[Tuple[int, T]] = []
    console = Console(stderr=True)
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in track(
            pool.map(work, chunks),
            description,
            len(chunks),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ):
            results += found
    return results


def _stat_fault(path: str) -> Optional[str]:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return 'missing'
    except (OSError, ValueError):
        return 'unreadable'
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.R_OK):
        return 'unreadable'
    return None if status.st_size else 'empty'


def _look_into(path: str) -> Tuple[Optional[str], Optional[Tuple[int, int]]]:
    """Return what is wrong with an image, and its size if its head tells."""
    try:
        with open(path, 'rb', buffering=0) as file:
            head = file.read(_HEAD)
            file.seek(-min(_TAIL, len(head)), os.SEEK_END)
            tail = file.read(_TAIL)
    except OSError:
        return 'unreadable', None
    if head.startswith(_JPEG):
        size, is_whole = _jpeg_size(head), _JPEG_END in tail
    elif head.startswith(_PNG):
        size, is_whole = _png_size(head), _PNG_END in tail
    else:
        size, is_whole = None, False
    return (None if is_whole else _fault_of_doubtful(path)), size


def _fault_of_doubtful(path: str) -> Optional[str]:
    """Return what is wrong with an image that does not end as it should."""
    with open(path, 'rb') as file:
        content = file.read()
    # Zeros where a scan should go on are decoded without complaint. Others append
    # data, zeros too, to its end; within a scan there are no bytes like these.
    ends_in_zeros = content.startswith(_JPEG) and not any(content[-_TAIL:])
    if ends_in_zeros and _JPEG_END not in content[content.rfind(_JPEG_SCAN) :]:
        return 'truncated'
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Image.DecompressionBombError:
        return None
    except Image.UnidentifiedImageError:
        if content.startswith((_JPEG, _PNG)):
            return 'truncated'
        # OpenCV reads formats that Pillow does not.
        array = np.frombuffer(content, np.uint8)
        is_image = cv2.imdecode(array, cv2.IMREAD_UNCHANGED) is not None
        return None if is_image else 'no image'
    except Exception:
        # Pillow's decoders raise anything at what ends too early.
        return 'truncated'
    return None


def _png_size(head: bytes) -> Optional[Tuple[int, int]]:
    if len(head) < 24:
        return None
    return int.from_bytes(head[16:20], 'big'), int.from_bytes(head[20:24], 'big')


def _jpeg_size(head: bytes) -> Optional[Tuple[int, int]]:
    """Walk through the segments to the one with the size."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        kind = head[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(head[at + 5 : at + 7], 'big')
            return int.from_bytes(head[at + 7 : at + 9], 'big'), height
        if kind == 0xFF:
            at += 1
        else:
            at += 2 + int.from_bytes(head[at + 2 : at + 4], 'big')
    return None
