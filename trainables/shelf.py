"""Prepared inputs on the disk: all workers of a node map one copy, and none computes what another did.

    $ETUDE_CACHE/prepared/KEY.npy

Where they take more than LIMIT_BYTES, or a quarter of what the disk has free, those go that were not asked for the
longest. They are computed again when they are asked for, so nothing depends on a file that is not there.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.files import cache_folder, replace_file

LIMIT_BYTES = 4 * 2**30
log = logging.getLogger(__name__)


def shared(depends_on: Iterable[bytes], make: Callable[[], Tensor]) -> Tensor:
    """What `make` gives, a tensor on the CPU, computed once for all who ask for it with the same `depends_on`.

    That has to say all that the values depend on, apart from this project's code and Torch's version. The tensor is
    mapped from the disk; writing to it changes it for the caller alone. Where the disk takes no file, it is computed
    for the caller.
    """
    path = cache_folder() / "prepared" / f"{_key(depends_on)}.npy"
    found = _read(path)
    if found is None:
        found = make()
        try:
            _write(path, found)
        except OSError as error:
            log.warning("Prepared inputs are not shared: %s (%s)", error.strerror or error, path.parent)
            return found
        mapped = _read(path)
        found = found if mapped is None else mapped
    return found


def _key(depends_on: Iterable[bytes]) -> str:
    digest = sha256(_CODE)
    for part in depends_on:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()[:32]


def _code() -> bytes:
    """What tells one state of the code that prepares inputs from another."""
    here = Path(__file__).parent
    digest = sha256(torch.__version__.encode())
    for path in (here / "data.py", here / "corpora" / "store.py", *sorted((here / "features").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.digest()


_CODE = _code()  # as this process imports it: the files may be others by the time inputs are prepared


def _read(path: Path) -> Tensor | None:
    """The tensor in a file, unless that is missing or damaged."""
    try:
        found = torch.from_numpy(np.lib.format.open_memmap(path, mode="c").view(np.ndarray))
    except (OSError, ValueError, EOFError):
        return None
    with contextlib.suppress(OSError):  # somebody else's file
        os.utime(path)
    return found


def _write(path: Path, values: Tensor) -> None:
    """Raises OSError where there is no room."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, values.numpy())

    path.parent.mkdir(parents=True, exist_ok=True)
    _make_room(path.parent, values.nbytes)
    replace_file(path, write)


def _make_room(folder: Path, needed: int) -> None:
    """Removes files, the longest unused first, until as much more may be kept; whoever maps one keeps it."""
    files = [(path, path.stat()) for path in folder.iterdir()]
    held = sum(status.st_size for _, status in files)
    limit = min(LIMIT_BYTES, (held + shutil.disk_usage(folder).free) // 4)
    if needed > limit:
        raise OSError(f"{needed / 1e9:.1f} GB are more than the {limit / 1e9:.1f} GB that may be kept")
    for path, status in sorted(files, key=lambda entry: entry[1].st_mtime):
        if held + needed <= limit:
            break
        path.unlink(missing_ok=True)
        held -= status.st_size
