"""The memory of an unfinished import: samples as they are decoded, and one line about each clip.

A process may be killed at any point, and the machine may lose its power: whatever the two files then hold,
`Journal.open` cuts them back to the longest part that is whole, and the import goes on behind it.
"""

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

import numpy as np

from trainables.corpora.audio import Samples, samples_digest

FLUSH_EVERY = 64  # clips between two writes
FLUSH_BYTES = 16 * 2**20  # of samples, between two writes of long clips
SYNC_EVERY = 2_048  # clips between two calls for the disk: about 0.25 GB of notes
BYTES = 2  # of one sample


class Entry(NamedTuple):
    """What became of one clip: where its `samples` lie from `offset` on, or the `reason` it has none."""

    split: str
    name: str
    path: str
    offset: int
    samples: int = 0
    digest: str = ""
    repairs: Sequence[str] = ()
    reason: str = ""


class Journal:
    """An appendable record in the `folder`; `entries` and `offset` count what it holds already."""

    def __init__(self, folder: Path, samples_file: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        samples_file.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.samples_path = folder / "journal.jsonl", samples_file
        self.entries, self.offset = self._cut_back()
        self._lines: list[bytes] = []
        self._waves: list[Samples] = []
        self._waiting_bytes = 0
        # Unbuffered, so that an error shows where it happens and closing cannot fail a second time.
        self._samples = samples_file.open("ab", buffering=0)
        self._journal = self.path.open("ab", buffering=0)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disk.shutdown()
        self._samples.close()
        self._journal.close()

    def append(self, entry: Entry, samples: Samples | None = None) -> bool:
        """Add a clip; return whether it and all before it would now survive a kill of this process."""
        if samples is not None:
            self._waves.append(samples)
            self._waiting_bytes += samples.nbytes
            self.offset += len(samples)
        self._lines.append(json.dumps(entry).encode() + b"\n")
        self.entries += 1
        if self.entries % FLUSH_EVERY == 0 or self._waiting_bytes > FLUSH_BYTES:
            self.flush()
        if self.entries % SYNC_EVERY == 0:
            self.start_sync()
        return not self._lines

    def flush(self) -> None:
        """Hand all samples and then all lines to the operating system."""
        if self._waves:
            waves = np.concatenate(self._waves).astype("<i2", copy=False)
            write_all(self._samples, waves.data.cast("B"))
        write_all(self._journal, memoryview(b"".join(self._lines)))
        self._lines.clear()
        self._waves.clear()
        self._waiting_bytes = 0

    def start_sync(self) -> None:
        """Have the disk write what was flushed, in the background, once it has finished the last such order."""
        if self._syncing:
            self._syncing.result()
        self._syncing = self._disk.submit(self._sync)

    def _sync(self) -> None:
        os.fsync(self._samples.fileno())
        os.fsync(self._journal.fileno())

    def sync(self) -> None:
        """Flush, and wait until everything is on the disk."""
        self.flush()
        self.start_sync()
        if self._syncing:
            self._syncing.result()

    def _cut_back(self) -> tuple[int, int]:
        """Cut both files back to what is whole; return the clips and the samples left."""
        recent: deque[tuple[int, int, Entry]] = deque(maxlen=3 * SYNC_EVERY)
        intact = (0, 0, 0)  # entries, bytes of the journal, samples
        self.samples_path.touch()
        self.path.touch()
        held = self.samples_path.stat().st_size // BYTES
        for index, (end, entry) in enumerate(_lines(self.path)):
            if entry.offset != intact[2] or entry.offset + entry.samples > held:
                break
            recent.append((intact[1], index, entry))
            intact = (index + 1, end, entry.offset + entry.samples)
        # After a power cut the files may be long enough and yet hold zeros. Older clips were synced.
        samples = np.zeros(0, "<i2")
        if held:  # whole samples; an odd byte may be left at the end
            samples = np.memmap(self.samples_path, dtype="<i2", mode="r", shape=(held,))
        for start, index, entry in recent:
            stored = samples[entry.offset : entry.offset + entry.samples]
            if entry.samples and samples_digest(stored) != entry.digest:
                intact = (index, start, entry.offset)
                break
        del samples
        os.truncate(self.path, intact[1])
        os.truncate(self.samples_path, intact[2] * BYTES)
        return intact[0], intact[2]


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the entries of a journal up to the first line that is not whole."""
    return (entry for _, entry in _lines(path))


def _lines(path: Path) -> Iterator[tuple[int, Entry]]:
    """Yield each whole entry with the position in bytes behind it."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            try:
                entry = Entry(*json.loads(line))
            except (ValueError, TypeError):
                return
            if not line.endswith(b"\n"):
                return
            yield end, entry


def write_all(file: IO[bytes], data: memoryview) -> None:
    """Write all of `data` to an unbuffered file, which may take it in parts."""
    while len(data):
        data = data[file.write(data) :]
