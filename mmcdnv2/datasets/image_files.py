"""Finds images that are missing, damaged or not readable by a pipeline's loader."""

import io
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import mmcv
from PIL import Image

# Several threads wait for the disk at once.
_THREADS = 8
_CHUNK = 256
_TAIL = 64
_JPEG, _JPEG_SCAN, _JPEG_END = b'\xff\xd8\xff', b'\xff\xda', b'\xff\xd9'
_PNG, _PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'
_ENDS = {'JPEG': _JPEG_END, 'PNG': _PNG_END}
_ORIENTATION = 0x0112


class SeenImage(NamedTuple):
    """Result of the check of an image file.

    Attributes:
        fault (str, optional): Why it cannot be used.
        size (tuple[int], optional): Width and height as loaded.
        orientation (int): That of EXIF; from 5 on width and height are swapped.
    """

    fault: Optional[str] = None
    size: Optional[Tuple[int, int]] = None
    orientation: int = 1


def inspect_images(
    paths: Sequence[str], seconds: float, loader: Dict
) -> Dict[int, SeenImage]:
    """Look for images that are missing, damaged or not readable.

    JPEG and PNG files that begin and end as they should are not decoded, others
    are, as ``LoadImageFromFile`` does.

    Args:
        paths (Sequence[str]): Their files.
        seconds (float): How long files are opened, in random order. That all of
            them exist is checked first, in any case.
        loader (dict): Settings of ``LoadImageFromFile``.

    Returns:
        dict[int, SeenImage]: By its place each image that was opened; if some
        are missing or empty, only these.
    """
    order = list(range(len(paths)))
    found = _map_files(_find_missing, paths, order, math.inf)
    if missing := {i: image for i, image in found.items() if image.fault}:
        return missing
    # Those that are opened before time runs out stand for the others.
    Random(0).shuffle(order)
    return _map_files(lambda path: _inspect(path, loader), paths, order, seconds)


def _map_files(
    function: Callable[[str], SeenImage],
    paths: Sequence[str],
    order: List[int],
    seconds: float,
) -> Dict[int, SeenImage]:
    """Call a function of each file in threads until the time is over."""
    end = time.monotonic() + seconds

    def work(chunk: List[int]) -> List[Tuple[int, SeenImage]]:
        in_time = time.monotonic() <= end
        return [(i, function(paths[i])) for i in chunk] if in_time else []

    chunks = [order[i : i + _CHUNK] for i in range(0, len(order), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(sorted(pair for found in pool.map(work, chunks) for pair in found))


def _find_missing(path: str) -> SeenImage:
    if not os.path.isfile(path):
        return SeenImage('missing')
    return SeenImage(None if os.path.getsize(path) else 'empty')


def _inspect(path: str, loader: Dict) -> SeenImage:
    orientation, is_whole = 1, False
    try:
        with open(path, 'rb') as file:
            file.seek(-min(_TAIL, os.path.getsize(path)), os.SEEK_END)
            tail = file.read()
            file.seek(0)
            with Image.open(file) as image:
                orientation = int(image.getexif().get(_ORIENTATION, 1))
                is_whole = image.format in _ENDS and _ENDS[image.format] in tail
                # What OpenCV does with other orientations depends on its version.
                if is_whole and orientation < 5:
                    return SeenImage(None, image.size, orientation)
    except Exception:
        # Pillow does not know the format, or raises anything at a damaged file.
        is_whole = False
    try:
        content = Path(path).read_bytes()
    except OSError:
        return SeenImage('unreadable')
    flag, backend = (
        loader.get('color_type', 'color'),
        loader.get('imdecode_backend', 'cv2'),
    )
    try:
        loaded = mmcv.imfrombytes(content, flag, backend=backend)
    except Exception:
        loaded = None
    size = None if loaded is None else (loaded.shape[1], loaded.shape[0])
    # Some decoders fill up a truncated JPEG without complaint.
    if size and (is_whole or not content.startswith((_JPEG, _PNG))):
        return SeenImage(None, size, orientation)
    fault = _find_damage(content)
    if size is None:
        fault = fault or f'not decodable with {backend}'
    return SeenImage(fault, size, orientation)


def _find_damage(content: bytes) -> Optional[str]:
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
        return 'truncated' if content.startswith((_JPEG, _PNG)) else 'no image'
    except Exception:
        # Pillow's decoders raise anything at a file that ends too early.
        return 'truncated'
    return None
