"""What the importer knows of a corpus, however it lies on the disk: its rows, its audio, and what it weighs."""

import os
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

SPLITS = ("train", "valid", "test")
UNLABELLED = "unlabelled"  # the split of clips that have no label, to be predicted only
CLIP_OVERHEAD_BYTES = 1_000  # journal, labels and digests of one clip on disk, generously


@dataclass(frozen=True, slots=True)
class Row:
    """One clip of a corpus before it is decoded.

    `split` is the corpus' own: one of SPLITS, UNLABELLED, or empty where it has none. Clips of one `group` must
    stay together. `labels` has one entry per task of its kind, `details` one whole number per further column;
    `path` is where the audio lies, relative to the corpus unless absolute.
    """

    split: str
    name: str
    group: str
    labels: tuple[str, ...]
    path: str
    details: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Bad:
    """One thing that cannot be used, and why; `name` is empty where it belongs to no clip."""

    split: str
    name: str
    path: str
    reason: str


@dataclass(frozen=True)
class Item:
    """One clip's audio, still encoded: `load` returns it or raises BadAudio.

    `held` counts the bytes that waiting for `load` keeps in memory; `reached` says how far in the corpus this
    item lies, in the unit of Survey.total.
    """

    split: str
    name: str
    path: str
    load: Callable[[], bytes]
    held: int
    reached: int


@dataclass(frozen=True)
class Survey:
    """What names, sizes and times of the files tell without opening them.

    `fingerprint` changes with any of them. `disk_bytes` estimates the decoded size. `total`
    is the amount of work: in files, and for archives in bytes.
    """

    fingerprint: str
    disk_bytes: int
    total: int


class Corpus(Protocol):
    """A corpus that was found on the disk; rows and items come split by split, in the same order."""

    @property
    def root(self) -> Path:
        """The folder or file that the user named."""

    def survey(self, clip_bytes: int) -> Survey:
        """Look at every file's name, size and time; `clip_bytes` is the most that one decoded clip can take."""

    def rows(self, spool: Path | None = None) -> Iterator[Row | Bad]:
        """Stream all rows without touching audio; a name comes as Row at most once.

        `spool` is the folder that `items` was given before, if it was. Raises UserError.
        """

    def items(self, spool: Path) -> Iterator[Item]:
        """Yield the audio, in an order that depends on the corpus alone; `spool` is a folder for by-products."""

    def notes(self, split: str, listed: Set[str], decoded: Set[str]) -> tuple[str, ...]:
        """Sentences on files of one split that were left out, given the names of its rows and of its items."""


@dataclass(frozen=True)
class Kind:
    """One way to lay out a corpus.

    Of each clip the first `max_seconds` are kept at `sample_rate_hz`. `details` names the columns of Row.details.
    `locate` finds the corpus behind a path, or raises UserError.
    """

    tasks: tuple[str, ...]
    splits: tuple[str, ...]  # the values of --split, the default first
    sample_rate_hz: int
    max_seconds: float
    locate: Callable[[Path], Corpus]
    details: tuple[str, ...] = ()


def fingerprint(root: Path, checksum: int) -> str:
    """Name the files under `root`, whose `file_checksum`s add up to `checksum`; the order does not matter."""
    return sha256(os.fsencode(f"{root.resolve()}\0{checksum % 2**128:032x}")).hexdigest()[:32]


def file_checksum(name: str, found: os.stat_result) -> int:
    """Hash a file's name, size and time."""
    return text_checksum(f"{name}\0{found.st_size}\0{found.st_mtime_ns}")


def text_checksum(text: str) -> int:
    """Hash a text, which may hold undecodable parts of file names."""
    return int.from_bytes(sha256(text.encode("utf-8", "surrogateescape")).digest()[:16])
