"""Files that lie there as a whole or not at all, whatever kills the process that writes them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATE = "state.pt"
WEIGHTS = "best.safetensors"


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` write a file beside `path`, brings it to the disk, and only then puts it in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the file or folder is on the disk; for a folder that is what it holds under which names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, record: object) -> None:
    """Writes `record` as readable JSON, replacing the file as a whole."""
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
