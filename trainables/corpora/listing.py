"""Corpora whose rows are all known once they are found: folders of labelled files, and tables of paths."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from trainables.corpora.audio import BadAudio, read_file
from trainables.corpora.layout import (
    CLIP_OVERHEAD_BYTES,
    Bad,
    Item,
    Row,
    Survey,
    file_checksum,
    fingerprint,
    text_checksum,
)

# How many times a file's size its decoded clip takes, about: what is compressed, or recorded at a low rate, grows.
GROWTH = {".flac": 4, ".ogg": 10, ".mp3": 10}
GROWTH_OF_PLAIN = 2


@dataclass(frozen=True)
class Part:
    """One split: its rows in order, and sentences on what was left out."""

    rows: tuple[Row | Bad, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """`root` is what the user named, paths are relative to `folder`, which is resolved; see layout.Corpus."""

    root: Path
    folder: Path
    parts: Mapping[str, Part]

    def survey(self, clip_bytes: int) -> Survey:
        """Look at the files of all rows; what the rows say counts as well."""
        disk = total = checksum = 0
        for split, part in self.parts.items():
            checksum += text_checksum(f"{split}\0{part.remarks}")
            for row in part.rows:
                checksum += text_checksum(repr(astuple(row)))
                if isinstance(row, Bad):
                    continue
                total += 1
                try:
                    found = (self.folder / row.path).stat()
                except (OSError, ValueError):  # it will be quarantined when its turn comes
                    continue
                checksum += file_checksum(row.path, found)
                growth = GROWTH.get(PurePosixPath(row.path).suffix.lower(), GROWTH_OF_PLAIN)
                disk += min(growth * found.st_size, clip_bytes) + CLIP_OVERHEAD_BYTES
        return Survey(fingerprint(self.root, checksum), disk, total)

    def rows(self, spool: Path | None = None) -> Iterator[Row | Bad]:
        """Return the rows of all parts."""
        return (row for part in self.parts.values() for row in part.rows)

    def items(self, spool: Path) -> Iterator[Item]:
        """Return the audio of each usable row."""
        rows = (row for row in self.rows() if isinstance(row, Row))
        for number, row in enumerate(rows, start=1):
            load = partial(read_inside, self.folder, row.path)
            yield Item(row.split, row.name, row.path, load, held=0, reached=number)

    def notes(self, split: str, listed: Set[str], decoded: Set[str]) -> tuple[str, ...]:
        """Repeat the part's remarks."""
        return self.parts[split].remarks


def read_inside(folder: Path, path: str) -> bytes:
    """Return the bytes of the file `path` in the resolved `folder`, following no link out of it.

    An absolute path is taken as it stands; a link at its end must stay in its own folder, or lead into `folder`.
    Raises BadAudio.
    """
    file = folder / path
    try:
        parent = file.parent.resolve()
    except (OSError, RuntimeError) as error:
        raise BadAudio("cannot be read: its folder is a circle of links") from error
    if Path(path).is_absolute():
        return read_file(file, (folder, parent))
    if not parent.is_relative_to(folder):
        raise BadAudio("link: its folder leads out of the corpus, and is never followed")
    return read_file(file, (folder,))


def clip_names(paths: Iterable[str]) -> dict[str, str]:
    """Name each clip by its path without the extension, or with it where two would have the same name."""
    stems = {path: posixpath.splitext(path)[0] for path in paths}
    count = Counter(stems.values())
    return {path: stem if count[stem] == 1 and stem not in stems else path for path, stem in stems.items()}


def is_text(name: str) -> bool:
    """Whether `name` is free of the stand-ins for what is no UTF-8 in a file's name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """Return `name` with what is no UTF-8 written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
