"""Writing files whole or not at all."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

from .errors import InputError

# What a write meets that has no file's name in its error.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replace_when_done(path: Union[str, Path]) -> Iterator[Path]:
    """Give a temporary name to write to; rename it if all went well.

    Args:
        path (str | Path): The final name.

    Yields:
        Path: A name in the same folder, with the same suffix, of no file yet.

    Raises:
        InputError: If it cannot be written. What fails because of other files is
            raised as it is.
    """
    path = Path(path)
    partial = _partial(path)
    _make_folder(path)
    _try(partial, path)
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        is_own = os.path.abspath(str(error.filename)) == os.path.abspath(partial)
        if is_own or error.errno in _NO_SPACE:
            raise _unwritable(path, error) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: Union[str, Path]) -> None:
    """Refuse a file that cannot be written, before the work for it; leave no trace.

    Args:
        path (str | Path): The file, of which nothing is changed.

    Raises:
        InputError: If :func:`replace_when_done` could not write it.
    """
    path = Path(path)
    partial = _partial(path)
    missing = [each for each in path.parents if not each.exists()]
    try:
        _make_folder(path)
        _try(partial, path)
    finally:
        for folder in missing:
            if folder.is_dir():
                folder.rmdir()


def _partial(path: Path) -> Path:
    if path.is_dir():
        raise InputError(f'{path} is a folder: the name of a file was expected.')
    return path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{path.parent} cannot be a folder: {error}.') from error


def _try(partial: Path, path: Path) -> None:
    """Write the temporary file of a path once, and remove it."""
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f'{path} cannot be written ({error.strerror}): choose another name or folder.'
    )
