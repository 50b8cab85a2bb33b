"""What a process does with memory that was freed.

A training step makes and frees the same hundreds of megabytes as the one before. By default the C library returns
large blocks, and the end of its heap, to the system as soon as they are free, and has them back page by page in the
next step: a tenth of a trial's time on a CPU (LOG.md). Told to keep them it fills up with holes. jemalloc keeps all
with fewer, and forked workers have it (search/forks.py); in other processes the C library keeps what it can.
"""

import ctypes
from collections.abc import Callable

# Larger blocks the C library returns at once, as ever: kept, they leave holes that are not worth the time saved.
LARGE_BLOCK_BYTES = 2**25
_KEPT_BYTES = 2**30
# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# What a trial may leave to the next one.
_LEFT_BYTES = 2**27
# Of jemalloc.h.
_ALL_ARENAS = 4096


def keep_freed() -> None:
    """Has this process' C library, if it is glibc, keep freed blocks for the next ones, but for large ones.

    With jemalloc, which keeps all by its settings, it has nothing to say.
    """
    if tune := _function("mallopt"):
        tune(_TRIM_THRESHOLD, _KEPT_BYTES)
        tune(_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def tidy() -> None:
    """Returns what jemalloc kept to the system where it is much, for what comes will not be of the same sizes.

    Nothing of the C library's: that costs as much time as keeping saves.
    """
    if (control := _function("mallctl")) and _kept_bytes(control) > _LEFT_BYTES:
        give_back()


def give_back() -> None:
    """Returns what was kept to the system."""
    if control := _function("mallctl"):
        control(f"arena.{_ALL_ARENAS}.purge".encode(), None, None, None, ctypes.c_size_t(0))
    elif trim := _function("malloc_trim"):
        trim(ctypes.c_size_t(0))


def _kept_bytes(control: Callable[..., int]) -> int:
    """What jemalloc holds that is not in use."""
    now = ctypes.c_uint64(1)
    control(b"epoch", None, None, ctypes.byref(now), ctypes.c_size_t(ctypes.sizeof(now)))  # statistics are of then
    return _told(control, f"stats.arenas.{_ALL_ARENAS}.pdirty") * _told(control, "arenas.page")


def _told(control: Callable[..., int], name: str) -> int:
    """A size that jemalloc tells under that name."""
    found, length = ctypes.c_size_t(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_size_t))
    control(name.encode(), ctypes.byref(found), ctypes.byref(length), None, ctypes.c_size_t(0))
    return found.value


def _function(name: str) -> Callable[..., int] | None:
    """A function of the libraries of this process, if one has it."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # Windows has no library without a name
        return None
