"""What the C library does with memory that was freed.

A training step makes and frees the same hundreds of megabytes as the one before. By default the library returns the
end of its heap to the system as soon as that is free, and has it back page by page in the next step: some 5 % of a
trial's time on a CPU (LOG.md).
"""

import ctypes
from collections.abc import Callable

# Larger blocks go back at once, as ever: kept, they leave holes that cost more memory than they save time.
LARGE_BLOCK_BYTES = 2**25
_KEPT_BYTES = 2**30
# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed() -> None:
    """Has this process keep freed blocks for its next ones, but for large ones. Does nothing without glibc."""
    if tune := _function("mallopt"):
        tune(_TRIM_THRESHOLD, _KEPT_BYTES)
        tune(_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def give_back() -> None:
    """Returns what was kept to the system."""
    if trim := _function("malloc_trim"):
        trim(ctypes.c_size_t(0))


def _function(name: str) -> Callable[..., int] | None:
    """A function of the C library, if it has that one."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # Windows has no library without a name
        return None
