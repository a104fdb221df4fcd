"""Which images are meant, and what their pictures are called."""

import glob
import os
from pathlib import Path
from typing import Dict, List, Sequence, Set

from mmdet.apis.det_inferencer import IMG_EXTENSIONS

from ..errors import InputError


def find_images(patterns: Sequence[str]) -> List[str]:
    """Find the images that files, folders and globs stand for.

    Args:
        patterns (Sequence[str]): A file is taken as it is, whether it exists or not;
            of a folder, the images in it, but not in folders below it.

    Returns:
        list[str]: Their paths, each file once: those of a pattern sorted.

    Raises:
        InputError: If there is none.
    """
    paths: Dict[str, str] = {}
    for pattern in patterns:
        if os.path.isdir(pattern):
            found = [
                os.path.join(pattern, name)
                for name in os.listdir(pattern)
                if name.lower().endswith(IMG_EXTENSIONS)
            ]
        elif glob.has_magic(pattern) and not os.path.exists(pattern):
            found = glob.glob(pattern, recursive=True)
        else:
            found = [pattern]
        for path in sorted(found):
            if not os.path.isdir(path):
                paths.setdefault(os.path.realpath(path), path)
    if not paths:
        raise InputError(f'There is no image in {", ".join(patterns)}.')
    return list(paths.values())


def picture_names(images: Sequence[str]) -> List[str]:
    """Name the pictures of images after these, each otherwise.

    Args:
        images (Sequence[str]): Paths of the images.

    Returns:
        list[str]: Names of files: the image's own as JPEG or PNG, with a number
        where several images would have the same.
    """
    wanted = [
        f'{path.stem}.{"jpg" if path.suffix.lower() in (".jpg", ".jpeg") else "png"}'
        for path in map(Path, images)
    ]
    # Some file systems do not tell capitals from small letters.
    reserved = {name.lower() for name in wanted}
    taken: Set[str] = set()
    names = []
    for name in wanted:
        stem, suffix = os.path.splitext(name)
        # The first one keeps its name, and no other's is given to the next ones.
        number, chosen = 1, name
        while chosen.lower() in taken or (number > 1 and chosen.lower() in reserved):
            number += 1
            chosen = f'{stem}_{number}{suffix}'
        taken.add(chosen.lower())
        names.append(chosen)
    return names
