"""Files that lie there as a whole or not at all, whatever kills the process that writes them."""

import json
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainables.errors import UserError

STATE, BEST_WEIGHTS = "state.pt", "best.safetensors"  # of a trial in progress
CONFIG = "config.json"  # of a model
PREPARED_BYTES = 4 * 2**30
_PROBE_BYTES = 2**20


def from_home(path: str | Path) -> Path:
    """The path with a leading `~` or `~user` written out; raises UserError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"A path that begins with ~ must name a user of this machine, but {path} does not.") from error


def cache_folder() -> Path:
    """What is kept once for all studies; the variable ETUDE_CACHE moves it."""
    return from_home(os.environ.get("ETUDE_CACHE", "~/.cache/etude"))


def prepared_bytes(free_bytes: int) -> int:
    """What of a disk with so much room prepared inputs may take: a quarter, and no more than PREPARED_BYTES."""
    return min(PREPARED_BYTES, free_bytes // 4)


def replace_file(
    path: Path, write: Callable[[Path], object], check: Callable[[], object] = lambda: None, *, lasting: bool = True
) -> None:
    """Has `write` write a file beside `path`, brings it to the disk, and only then puts it in place.

    `check` is called before anything is done and again before the latter; what it raises leaves all as it was. What
    need not be `lasting` is not waited for until it is on the disk: after a power cut it may be missing or damaged.
    """
    check()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several hosts may write on one disk, so that a process id would not be of this process alone.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        try:
            write(temporary)
        except Exception as error:
            _blame_disk(temporary, str(error))
            raise
        if lasting:
            sync(temporary)
        check()
        temporary.replace(path)
        if lasting:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _blame_disk(path: Path, words: str) -> None:
    """Raises the OSError of a disk that takes no more, where a library made an error of its own of it.

    Safetensors still tells its number; Torch tells nothing, but leaves the file as far as it got.
    """
    if found := re.search(r"os error (\d+)", words):
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path))
    with path.open("ab") as file:
        file.write(bytes(_PROBE_BYTES))


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
