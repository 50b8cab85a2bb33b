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
    finally:
        temporary.unlink(missing_ok=True)
