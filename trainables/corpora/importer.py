"""Decoding a corpus into a store: read, decode on all cores, write in order, take up where it stopped.

Threads, not processes: reading, decoding, hashing and writing leave the interpreter lock, and memory stays that of
one process. What bounds the speed is the disk, with folders, and decompression, with archives
(benchmarks/import_memory.md).
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trainables.corpora.audio import BadAudio, Samples, decode
from trainables.corpora.journal import FLUSH_EVERY, Entry, Journal, read_entries
from trainables.corpora.layout import Corpus, Item
from trainables.errors import UserError

BATCH = 16  # items
BATCH_BYTES = 2**21  # of decoded clips, so that long ones come in smaller batches
BATCHES_PER_CORE = 3  # decoded or waiting for it
WAITING_BYTES = 64 * 2**20

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What the content of a store depends on besides the corpus."""

    sample_rate_hz: int
    max_seconds: float

    def __post_init__(self) -> None:
        if not 1_000 <= self.sample_rate_hz <= 400_000 or not 0 < self.max_seconds <= 3_600:
            raise UserError(
                "A store needs a sample rate of 1,000 to 400,000 Hz and clips of up to 3,600 s, "
                f"but got {self.sample_rate_hz} Hz and {self.max_seconds} s."
            )

    @property
    def clip_bytes(self) -> int:
        """The most bytes one decoded clip takes."""
        return 2 * round(self.max_seconds * self.sample_rate_hz)

    @property
    def cut(self) -> str:
        """The repair of clips that are longer."""
        return f"cut to the first {self.max_seconds:g} s"


@dataclass(frozen=True)
class Outcome:
    """A clip decoded, or why it could not be."""

    samples: Samples | None
    digest: str = ""
    repairs: tuple[str, ...] = ()
    reason: str = ""


# Where a container's quota of cores is told, in the second version of control groups and in the first.
_CGROUP = Path("/sys/fs/cgroup")
_QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))


def cores() -> int:
    """The number of cores that this process may use: those it is bound to, within its container's quota."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in _QUOTAS:
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
            quota, period = (int(word) for name in names for word in (_CGROUP / name).read_text().split())
            if quota > 0:
                found = min(found, max(1, quota // period))
    return found


def decode_corpus(
    corpus: Corpus, options: Options, folder: Path, samples_file: Path, total: int, progress: Progress
) -> None:
    """Decode every clip into `samples_file` and the journal in `folder`, going on where they end.

    Raises UserError if the journal is of another corpus; OSError where the disk fails or is full.
    """
    with Journal(folder, samples_file) as journal:
        progress("decoding", 0, total)
        items = corpus.items(folder)
        _skip_done(items, journal, lambda reached: progress("decoding", min(reached, total), total))
        for item, outcome in _decoded(items, options):
            held = 0 if outcome.samples is None else len(outcome.samples)
            entry = Entry(
                item.split,
                item.name,
                item.path,
                journal.offset,
                held,
                outcome.digest,
                outcome.repairs,
                outcome.reason,
            )
            if journal.append(entry, outcome.samples):
                progress("decoding", min(item.reached, total), total)
        journal.sync()
        progress("decoding", total, total)


def _skip_done(items: Iterator[Item], journal: Journal, report: Callable[[int], None]) -> None:
    done, count = read_entries(journal.path), journal.entries
    for index in range(count):
        entry, item = next(done), next(items, None)
        if item is None or (item.split, item.name, item.path) != (entry.split, entry.name, entry.path):
            raise UserError(f"The unfinished import in {journal.path.parent} is of another corpus. Delete that folder.")
        if index % FLUSH_EVERY == 0:
            report(item.reached)


def _decoded(items: Iterable[Item], options: Options) -> Iterator[tuple[Item, Outcome]]:
    """Decode on all cores; results come in the order of `items`, and few are in memory at any time."""
    waiting: deque[tuple[list[Item], Future[list[Outcome]]]] = deque()
    held = 0
    workers = cores()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for batch in _batches(items, max(1, min(BATCH, BATCH_BYTES // options.clip_bytes))):
                waiting.append((batch, pool.submit(_decode_batch, batch, options)))
                held += sum(item.held for item in batch)
                while len(waiting) > BATCHES_PER_CORE * workers or held > WAITING_BYTES:
                    first, future = waiting.popleft()
                    held -= sum(item.held for item in first)
                    yield from zip(first, future.result(), strict=True)
            while waiting:
                first, future = waiting.popleft()
                yield from zip(first, future.result(), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Group items: handing over each alone would cost more in waiting for the interpreter than decoding it."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size or sum(held.held for held in batch) > WAITING_BYTES // 8:
            yield batch
            batch = []
    if batch:
        yield batch


def _decode_batch(items: list[Item], options: Options) -> list[Outcome]:
    return [_decode_item(item, options) for item in items]


def _decode_item(item: Item, options: Options) -> Outcome:
    try:
        decoded = decode(
            item.load(),
            sample_rate_hz=options.sample_rate_hz,
            max_seconds=options.max_seconds,
            mp3=item.path.lower().endswith(".mp3"),
        )
    except BadAudio as error:
        return Outcome(None, reason=str(error))
    repairs = (*decoded.repairs, options.cut) if decoded.cut else decoded.repairs
    return Outcome(decoded.samples, decoded.digest, repairs)
