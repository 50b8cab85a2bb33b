"""Files that a user names for what comes out. A result never takes the place of what it was made of."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from trainables.errors import UserError
from trainables.files import replace_file


def check_output(file: Path, folders: Iterable[Path] = (), files: Iterable[Path] = ()) -> None:
    """Raises UserError where a result cannot be written to `file`, or must not: in `folders`, and to none of `files`.

    Links count as what they lead to. To be called before anything expensive.
    """
    try:
        found = _status(file)
        target = file.resolve()
        if found and stat.S_ISDIR(found.st_mode):
            raise UserError(f"A result is written to a file, but {file} is a folder. Name a file in it.")
        if not found and not target.parent.is_dir():
            raise UserError(
                f"A result is written to a folder that is there, but {target.parent} is none. Make it first, or name "
                f"another file."
            )
        for folder in folders:
            if target.is_relative_to(folder.resolve()):
                raise UserError(
                    f"A result must not lie among what it is made of, but {file} is inside {folder}. Name another file."
                )
        for other in files:
            if other.resolve() == target or (found and _same(found, _status(other))):
                raise UserError(f"A result must not replace what else is used, but {file} is {other}. Name another.")
    except (OSError, RuntimeError) as error:  # RuntimeError for a circle of links
        raise _cannot(file, error) from error


def write_output(file: Path, write: Callable[[Path], object]) -> None:
    """Has `write` write a file and puts it where `file` leads, as a whole; raises UserError.

    A device or pipe is written to, never replaced.
    """
    check_output(file)
    try:
        if _replaceable(file):
            replace_file(file.resolve(), write)
            return
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder, "result")
            write(whole)
            with whole.open("rb") as source, file.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    except OSError as error:
        raise _cannot(file, error) from error


def _status(file: Path) -> os.stat_result | None:
    """Of what the path leads to, if there is anything."""
    try:
        return file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _same(one: os.stat_result, other: os.stat_result | None) -> bool:
    return other is not None and os.path.samestat(one, other)


def _replaceable(file: Path) -> bool:
    """Whether nothing is there, or a regular file; one that was opened and deleted is there without a path."""
    found = _status(file)
    return not found or (stat.S_ISREG(found.st_mode) and _same(found, _status(file.resolve())))


def _cannot(file: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) else None
    return UserError(f"{file} cannot be written ({reason or error}). Name another file.")
