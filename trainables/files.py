"""Files that lie there as a whole or not at all, whatever kills the process that writes them."""

import os
from collections.abc import Callable
from pathlib import Path

STATE = "state.pt"
WEIGHTS = "best.safetensors"


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` write a file beside `path`, brings it to the disk, and only then puts it in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Brings a renaming to the disk, so that a power cut does not undo it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
