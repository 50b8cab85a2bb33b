"""Keeps signals away from Torch while it computes.

A signal that is handled while one of oneDNN's LSTM kernels runs damages the heap: of runs of `nn.LSTM` on one CPU under
a signal every millisecond each ended with "corrupted size vs. prev_size" within seconds (torch 2.11, all instruction
sets), and so did eight of thirteen Ctrl-C. With signals held back during each batch, or without oneDNN, none did.
"""

import contextlib
import signal
from collections.abc import Iterator

HELD_BACK = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Keeps Ctrl-C and termination off this thread in the block, which must be as short as a batch.

    They come right after it; in a process with other threads perhaps sooner, through one of them, between two of
    Torch's functions. Does nothing on Windows, whose threads take no signals.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
