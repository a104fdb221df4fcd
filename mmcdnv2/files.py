"""Writing files whole or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

from .errors import InputError


@contextmanager
def replace_when_done(path: Union[str, Path]) -> Iterator[Path]:
    """Give a temporary name to write to; rename it if all went well.

    Args:
        path (str | Path): The final name.

    Yields:
        Path: A name in the same folder, with the same suffix.

    Raises:
        InputError: If the folder cannot be made.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{path.parent} cannot be a folder: {error}.') from error
    partial = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
