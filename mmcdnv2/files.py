"""Write files and folders atomically."""

import errno
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, List, Sequence, Union

from .errors import InputError

# Errors of writes, which have no filename.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def replace_when_done(path: Union[str, Path]) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it on success.

    Follows symbolic links. The mode is that of ``open``.

    Args:
        path (str | Path): The final path.

    Yields:
        Path: A new path in the same folder with the same suffix.

    Raises:
        InputError: If it cannot be written. Errors of other files are not
            converted.
    """
    with replace_all_when_done([path]) as (partial,):
        yield partial


@contextmanager
def replace_all_when_done(paths: Sequence[Union[str, Path]]) -> Iterator[List[Path]]:
    """Replace several files, all or none; see :func:`replace_when_done`.

    Args:
        paths (Sequence[str | Path]): The final paths.

    Yields:
        list[Path]: A temporary path for each.

    Raises:
        InputError: If one cannot be written.
    """
    files = [_File(path) for path in paths]
    missing = _missing_folders([file.partial for file in files])
    succeeded = False
    try:
        for file in files:
            file.try_to_write()
        yield [file.partial for file in files]
        for file in files:
            file.complete()
        _replace_all(files)
        succeeded = True
    except OSError as error:
        for file in files:
            if file.error_concerns(error):
                raise file.unwritable(error) from error
        if error.filename is None and error.errno in _NO_SPACE:
            begun = [file for file in files if os.path.exists(file.partial)]
            raise (begun or files)[-1].unwritable(error) from error
        raise
    finally:
        for file in files:
            file.clean_up()
        if not succeeded:
            _remove_folders(missing)


@contextmanager
def make_folder_when_done(path: Union[str, Path]) -> Iterator[Path]:
    """Yield a temporary folder to fill; rename it on success.

    Args:
        path (str | Path): The final path, which must not exist.

    Yields:
        Path: A new folder next to it.

    Raises:
        InputError: If the path exists, or the folder or a file in it cannot be
            written.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise InputError(f'{path} exists already: remove it or choose another folder.')
    partial = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
    missing = _missing_folders([partial])
    try:
        _make_folder(path)
        partial.mkdir()
        yield partial
        os.rename(partial, path)
    except OSError as error:
        if _is_about(error, partial) or error.errno in _NO_SPACE:
            raise _unwritable(path, error) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        # Folders with the result are not empty and stay.
        _remove_folders(missing)


def check_writable(path: Union[str, Path]) -> None:
    """Check that a file can be written, without changing anything.

    Args:
        path (str | Path): The file.

    Raises:
        InputError: If :func:`replace_when_done` cannot write it.
    """
    file = _File(path)
    missing = _missing_folders([file.partial])
    try:
        file.try_to_write()
    finally:
        _remove_folders(missing)


class _File:
    """A file to replace.

    Args:
        path (str | Path): The path given by the user.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = Path(path)
        if os.path.isdir(path):
            raise InputError(f'{path} is a folder: the name of a file was expected.')
        if os.path.exists(path) and not os.path.isfile(path):
            # Renaming a file to /dev/null would replace the device.
            raise InputError(f'{path} is not a regular file: choose another name.')
        is_link = os.path.islink(path)
        self.target = Path(os.path.realpath(path)) if is_link else self.path
        # Random, so that concurrent writers do not collide.
        name = f'.{self.target.stem}.{secrets.token_hex(4)}{self.target.suffix}'
        self.partial = self.target.with_name(name)
        self.old = self.target.with_name(f'{name}.old')

    def try_to_write(self) -> None:
        """Create and remove the temporary file."""
        _make_folder(self.target)
        try:
            self.partial.touch(exist_ok=False)
            self.partial.unlink()
            # Renaming would also replace a write-protected file.
            if self.target.exists() and not os.access(self.target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise self.unwritable(error) from error

    def complete(self) -> None:
        """Flush the temporary file to disk and copy the old file's mode."""
        with open(self.partial, 'r+b') as stream:
            # The content must be on disk before the renaming, for a crash after it.
            os.fsync(stream.fileno())
        with suppress(FileNotFoundError):
            mode = self.target.stat().st_mode & 0o777
            if mode != self.partial.stat().st_mode & 0o777:
                self.partial.chmod(mode)

    def keep_old(self) -> None:
        """Keep the old file, if any, under a second name."""
        if not os.path.lexists(self.target):
            return
        try:
            os.link(self.target, self.old)
        except OSError:
            # Not all file systems support links.
            shutil.copy2(self.target, self.old)

    def restore(self) -> None:
        """Undo the replacement: restore the old file, or remove the new one."""
        if os.path.exists(self.partial):
            return
        with suppress(OSError):
            if os.path.exists(self.old):
                os.replace(self.old, self.target)
            else:
                self.target.unlink()

    def clean_up(self) -> None:
        """Remove temporary files."""
        for path in (self.partial, self.old):
            # For example on a disk that became read-only; an earlier error is raised.
            with suppress(OSError):
                path.unlink()

    def error_concerns(self, error: OSError) -> bool:
        return _is_about(error, self.partial) or _is_about(error, self.target)

    def unwritable(self, error: OSError) -> InputError:
        return _unwritable(self.path, error)


def _replace_all(files: Sequence[_File]) -> None:
    """Rename all files, or restore the old ones."""
    *others, last = files
    try:
        for file in others:
            file.keep_old()
            os.replace(file.partial, file.target)
        os.replace(last.partial, last.target)
    except BaseException:
        for file in others:
            file.restore()
        raise


def _is_about(error: OSError, path: Path) -> bool:
    """Return whether an error names a path or something below it."""
    own = os.path.abspath(path)
    for name in (error.filename, error.filename2):
        if isinstance(name, (str, Path)):
            name = os.path.abspath(name)
            if name == own or name.startswith((own + os.sep, f'{own}.old')):
                return True
    return False


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{path.parent} cannot be a folder: {error}.') from error


def _missing_folders(paths: Sequence[Path]) -> List[Path]:
    """Return the missing parent folders of the paths, innermost first."""
    folders = {folder for path in paths for folder in path.parents}
    missing = [folder for folder in folders if not os.path.lexists(folder)]
    return sorted(missing, key=lambda folder: -len(folder.parts))


def _remove_folders(folders: Sequence[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _unwritable(path: Path, error: OSError) -> InputError:
    advice = 'choose another name or folder'
    if error.errno in _NO_SPACE:
        advice = 'make room there, or choose another folder'
    reason = error.strerror or error
    return InputError(f'{path} cannot be written ({reason}): {advice}.')
