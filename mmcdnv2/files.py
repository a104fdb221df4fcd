"""Writing files and folders whole or not at all."""

import errno
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, List, Sequence, Union

from .errors import InputError

# What a write meets that has no file's name in its error.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def replace_when_done(path: Union[str, Path]) -> Iterator[Path]:
    """Give a temporary name to write to; rename it if all went well.

    A link stays, what it points at is replaced. The mode is what ``open`` would give.

    Args:
        path (str | Path): The final name.

    Yields:
        Path: A name in the same folder, with the same suffix, of no file yet.

    Raises:
        InputError: If it cannot be written. What fails because of other files is
            raised as it is.
    """
    with replace_all_when_done([path]) as (partial,):
        yield partial


@contextmanager
def replace_all_when_done(paths: Sequence[Union[str, Path]]) -> Iterator[List[Path]]:
    """Do the same for several files, of which all are replaced or none.

    Args:
        paths (Sequence[str | Path]): The final names.

    Yields:
        list[Path]: A temporary name for each.

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
            if file.is_met_by(error):
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
    """Give a temporary folder to fill; rename it if all went well.

    Args:
        path (str | Path): The final name, of nothing that exists.

    Yields:
        Path: An empty folder beside it.

    Raises:
        InputError: If something of that name exists, or the folder or a file in it
            cannot be written.
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
        # Those that hold the result are not empty.
        _remove_folders(missing)


def check_writable(path: Union[str, Path]) -> None:
    """Refuse a file that cannot be written, before the work for it; leave no trace.

    Args:
        path (str | Path): The file, of which nothing is changed.

    Raises:
        InputError: If :func:`replace_when_done` could not write it.
    """
    file = _File(path)
    missing = _missing_folders([file.partial])
    try:
        file.try_to_write()
    finally:
        _remove_folders(missing)


class _File:
    """A file to be replaced.

    Args:
        path (str | Path): As the user names it.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = Path(path)
        if os.path.isdir(path):
            raise InputError(f'{path} is a folder: the name of a file was expected.')
        if os.path.exists(path) and not os.path.isfile(path):
            # To rename a file to /dev/null would take that from all others.
            raise InputError(f'{path} is no regular file: choose another name.')
        is_link = os.path.islink(path)
        self.target = Path(os.path.realpath(path)) if is_link else self.path
        # No one knows before what another process, machine or user calls its own.
        name = f'.{self.target.stem}.{secrets.token_hex(4)}{self.target.suffix}'
        self.partial = self.target.with_name(name)
        self.old = self.target.with_name(f'{name}.old')

    def try_to_write(self) -> None:
        """Write the temporary file once, and remove it."""
        _make_folder(self.target)
        try:
            self.partial.touch(exist_ok=False)
            self.partial.unlink()
            # Renaming does not ask whether the file is protected.
            if self.target.exists() and not os.access(self.target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise self.unwritable(error) from error

    def complete(self) -> None:
        """Bring the temporary file to the disk, with the mode of the old one."""
        with open(self.partial, 'r+b') as stream:
            # A machine that crashes after the renaming must not have lost what was
            # written before it.
            os.fsync(stream.fileno())
        with suppress(FileNotFoundError):
            mode = self.target.stat().st_mode & 0o777
            if mode != self.partial.stat().st_mode & 0o777:
                self.partial.chmod(mode)

    def keep_old(self) -> None:
        """Give the old file, if there is one, a second name."""
        if not os.path.lexists(self.target):
            return
        try:
            os.link(self.target, self.old)
        except OSError:
            # Not all file systems have links.
            shutil.copy2(self.target, self.old)

    def restore(self) -> None:
        """Bring the old file back, or none if there was none, once it is replaced."""
        if os.path.exists(self.partial):
            return
        with suppress(OSError):
            if os.path.exists(self.old):
                os.replace(self.old, self.target)
            else:
                self.target.unlink()

    def clean_up(self) -> None:
        """Remove what is temporary."""
        for path in (self.partial, self.old):
            # As when the disk is read-only by now. The error that came before says
            # more.
            with suppress(OSError):
                path.unlink()

    def is_met_by(self, error: OSError) -> bool:
        return _is_about(error, self.partial) or _is_about(error, self.target)

    def unwritable(self, error: OSError) -> InputError:
        return _unwritable(self.path, error)


def _replace_all(files: Sequence[_File]) -> None:
    """Rename all files, or put back what was there."""
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
    """Whether an error names a path or what is in it."""
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
    """List the folders that the paths need and that are not there, the inner first."""
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
