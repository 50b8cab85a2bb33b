"""Prepared inputs on the disk: all workers of a node map one copy, and none computes what another did.

    $ETUDE_CACHE/prepared/KEY.npy

Where they take more than they may of the disk, those go that were not asked for the longest. They are computed again
when they are asked for, so nothing depends on a file that is not there.
"""

import contextlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

# The modules that make inputs, imported when their text is read: it may be another by the time inputs are prepared.
from trainables.corpora import store
from trainables.features import picture, waveform
from trainables.files import cache_folder, prepared_bytes, replace_file

# Nothing goes that was asked for since: what does not fit beside it would push it out in turn, and be pushed out. Where
# hosts share the disk, what another one maps would be lost to it.
_IN_USE_SECONDS = 3600.0
# Whoever holds a lock for longer, perhaps stopped, is not waited for.
_WAIT_SECONDS = 3600.0
log = logging.getLogger(__name__)


def shared(depends_on: Iterable[bytes], make: Callable[[], Tensor]) -> Tensor:
    """What `make` gives, a tensor on the CPU, computed once for all who ask for it with the same `depends_on`.

    That has to say all that the values depend on, apart from this project's code and its libraries. Who asks while
    another computes it waits. The tensor is mapped from the disk; writing to it changes it for the caller alone. Where
    the disk takes no file, it is computed for the caller.
    """
    path = cache_folder() / "prepared" / f"{_key(depends_on)}.npy"
    found = _read(path)
    if found is not None:
        return found
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Sixteen locks for all: a lock of a key's own could never be removed.
            stack.enter_context(_lock(path.with_name(f".making-{path.name[0]}.lock")))
        except OSError as error:
            return _unshared(make(), path, error)
        found = _read(path)
        if found is None:
            found = make()
            try:
                _write(path, found)
            except OSError as error:
                return _unshared(found, path, error)
            mapped = _read(path)
            found = found if mapped is None else mapped
    return found


def _unshared(values: Tensor, path: Path, error: OSError) -> Tensor:
    log.warning("Prepared inputs are not shared: %s (%s)", error.strerror or error, path.parent)
    return values


def _lock(path: Path) -> FileLock:
    """A lock that raises OSError where the disk knows none, or another holds it for too long."""
    return FileLock(path, timeout=_WAIT_SECONDS, fallback_to_soft=False)


def _key(depends_on: Iterable[bytes]) -> str:
    digest = sha256(_CODE)
    for part in depends_on:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()[:32]


def _code() -> bytes:
    """What tells one state of the code that prepares inputs from another."""
    digest = sha256(" ".join(version(library) for library in ("numpy", "torch", "torchaudio", "soxr")).encode())
    for path in (
        Path(__file__).with_name("data.py"),
        *(Path(str(module.__file__)) for module in (store, waveform, picture)),
    ):
        digest.update(path.read_bytes())
    return digest.digest()


_CODE = _code()


def _read(path: Path) -> Tensor | None:
    """The tensor in a file, unless that is missing or damaged."""
    try:
        found = torch.from_numpy(np.lib.format.open_memmap(path, mode="c").view(np.ndarray))
    except Exception:  # a damaged header makes NumPy raise nearly anything
        return None
    with contextlib.suppress(OSError):  # somebody else's file
        os.utime(path)
    return found


def _write(path: Path, values: Tensor) -> None:
    """Raises OSError where there is no room."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.save(file, values.numpy())

    # One at a time: together they would take more than what is left for one.
    with _lock(path.with_name(".writing.lock")):
        _make_room(path.parent, values.nbytes)
        replace_file(path, write)


def _make_room(folder: Path, needed: int) -> None:
    """Removes files, the longest unused first, until as much more may be kept; whoever maps one here keeps it.

    What was begun and never ended is among them.
    """
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            files.append((path, path.lstat()))
    files = [(path, status) for path, status in files if stat.S_ISREG(status.st_mode) and status.st_size]
    held = sum(status.st_size for _, status in files)
    limit = prepared_bytes(held + shutil.disk_usage(folder).free)
    unused = [(path, status) for path, status in files if time.time() - status.st_mtime > _IN_USE_SECONDS]
    if needed > limit - held + sum(status.st_size for _, status in unused):
        raise OSError(f"{needed / 1e9:.1f} GB do not fit in the {limit / 1e9:.1f} GB that may be kept")
    for path, status in sorted(unused, key=lambda entry: entry[1].st_mtime):
        if held + needed <= limit:
            break
        path.unlink(missing_ok=True)
        held -= status.st_size
