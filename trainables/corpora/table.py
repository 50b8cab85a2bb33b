"""Corpora named by a table: a CSV file with the columns path and label, and perhaps group and split.

    path,label,group,split
    takes/one.wav,oboe,anna,train

Semicolons or tabs may separate the cells, as spreadsheets of many countries write them. Paths are relative to the
table's folder; absolute ones are taken as they are. An empty label marks a clip that is to be predicted only. Clips
of one group (a speaker, a take, an artist) stay on one side of every split.
"""

import csv
import io
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from trainables.corpora.layout import SPLITS, UNLABELLED, Bad, Kind, Row
from trainables.corpora.listing import Listing, Part, clip_names
from trainables.corpora.wording import listed
from trainables.errors import UserError

COLUMNS = ("path", "label", "group", "split")
REQUIRED = ("path", "label")
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
# What clips of one group have in common may stand in a column of such a name: speaker, Session ID, take_no.
GROUPING = re.compile(
    r"(speaker|artist|singer|player|performer|take|session|instrument|subject|patient|recording)s?([ _-]?(id|name|no))?"
)
EXAMPLE = "A corpus's table is a CSV file with the columns path and label, and perhaps group and split"


@dataclass(frozen=True)
class Line:
    """One row of the table as it was written, but for its path, which is brought to its shortest form."""

    number: int
    path: str
    label: str
    group: str
    split: str


def locate(path: Path) -> Listing:
    """Read the table `path`; raises UserError for anything in it that cannot be meant."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{EXAMPLE}; {path} {what}. Give the file itself.")
    folder = path.parent.resolve()
    separator, header = _header(path, text := _text(path))
    lines = list(_lines(path, folder, text, separator, header))
    if not lines:
        raise UserError(f"{EXAMPLE}; {path} has no row below its header. Add one for every clip.")
    _check_unique(path, lines)
    names = clip_names(line.path for line in lines)
    rows: dict[str, list[Row | Bad]] = {split: [] for split in (*SPLITS, "", UNLABELLED)}
    for line in lines:
        rows[line.split].append(_row(line, names[line.path]))
    parts = {split: Part(tuple(found)) for split, found in rows.items() if found}
    first = next(iter(parts))
    return Listing(path, folder, {**parts, first: Part(parts[first].rows, _unused(header))})


def _unused(header: Sequence[str]) -> tuple[str, ...]:
    """A note on columns that mean nothing here; one that may tell which clips belong together is easily misnamed."""
    unused = [name for name in header if name and name not in COLUMNS]
    if not unused:
        return ()
    column, are = ("column", "is") if len(unused) == 1 else ("columns", "are")
    note = f"The table's {column} {listed(unused)} {are} not used."
    grouping = [name for name in unused if GROUPING.fullmatch(name)]
    if "group" in header or not grouping:
        return (note,)
    which = "it" if len(unused) == 1 else " or ".join(map(repr, grouping))
    return (f"{note} Name {which} group to keep its clips together.",)


def _row(line: Line, name: str) -> Row | Bad:
    if "\0" in line.path:
        return Bad(line.split, name, line.path, "unsafe path: it holds a zero byte")
    if line.path in (".", "..") or line.path.startswith("../"):
        return Bad(
            line.split,
            name,
            line.path,
            "unsafe path: it leads to no file within the table's folder; write an absolute one",
        )
    return Row(line.split, name, line.group or name, (line.label,), line.path)


def _header(path: Path, text: str) -> tuple[str, list[str]]:
    """What separates the cells, and the names of the columns; raises UserError where they cannot be meant."""
    headers = {separator: _names(text, separator) for separator in SEPARATORS}
    fitting = [separator for separator, header in headers.items() if set(REQUIRED) <= set(header)]
    separator = fitting[0] if fitting else ","
    _check_header(path, headers[separator])
    return separator, headers[separator]


def _names(text: str, separator: str) -> list[str]:
    """The names in the header, if this is what separates them."""
    try:
        return [name.strip().casefold() for name in next(csv.reader(io.StringIO(text), delimiter=separator), [])]
    except csv.Error:
        return []


def _cells(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of the table, header included, with the number of the line in which each ends."""
    table = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        for cells in table:
            yield table.line_num, cells
    except csv.Error as error:
        raise UserError(
            f"{EXAMPLE}; line {table.line_num} of {path} is none ({error}). Save the table as CSV again."
        ) from error


def _lines(path: Path, folder: Path, text: str, separator: str, header: Sequence[str]) -> Iterator[Line]:
    for number, cells in islice(_cells(path, text, separator), 1, None):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise UserError(
                f"Every row must have the {len(header)} cells of the header, but line {number} of {path} has "
                f"{len(cells)}. Put a text that holds {SEPARATORS[separator]} between double quotes."
            )
        yield _line(path, folder, number, header, cells)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"A corpus's table must be UTF-8, but {path} is not (byte {error.object[error.start]:#04x} at "
            f"{error.start:,}). Save it again with that encoding."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error


def _check_header(path: Path, header: Sequence[str]) -> None:
    there = ", ".join(map(repr, header)) or "nothing"
    if missing := [name for name in REQUIRED if name not in header]:
        raise UserError(
            f"{EXAMPLE}; {path} lacks {' and '.join(missing)}, its first line has {there}. "
            f"Name the columns there, separated by commas, semicolons or tabs."
        )
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise UserError(f"Each column must stand once, but {path} has {', '.join(twice)} twice. Rename one.")


def _line(path: Path, folder: Path, number: int, header: Sequence[str], cells: Sequence[str]) -> Line:
    found = dict(zip(header, (cell.strip() for cell in cells), strict=True))
    if not found["path"]:
        raise UserError(f"Every row must name a path, but line {number} of {path} does not. Fill it in or remove it.")
    split = ""
    if not found["label"]:
        split = UNLABELLED
    elif "split" in found:
        if found["split"].casefold() not in SPLIT_NAMES:
            raise UserError(
                f"A split must be one of {', '.join(SPLIT_NAMES)}, but line {number} of {path} has "
                f"{found['split']!r}. Correct it, or remove the column to have the clips split at random."
            )
        split = SPLIT_NAMES[found["split"].casefold()]
    label = unicodedata.normalize("NFC", found["label"])  # as two systems spell one word
    return Line(number, _shortest(found["path"], folder), label, found.get("group", ""), split)


def _shortest(written: str, folder: Path) -> str:
    """The same path without detours, relative where it lies in the folder, so that a corpus may be moved."""
    if "\\" in written and not os.path.lexists(folder / written):
        slashed = written.replace("\\", "/")  # as Windows writes paths
        written = slashed if os.path.lexists(folder / slashed) else written
    path = PurePosixPath(posixpath.normpath(written))
    return str(path.relative_to(folder)) if path.is_absolute() and path.is_relative_to(folder) else str(path)


def _check_unique(path: Path, lines: Sequence[Line]) -> None:
    seen: dict[str, int] = {}
    for line in lines:
        if line.path in seen:
            raise UserError(
                f"Every path must stand once, but {line.path!r} stands in lines {seen[line.path]} and {line.number} "
                f"of {path}. Remove one of them."
            )
        seen[line.path] = line.number


def kind(task: str) -> Kind:
    """Return the layout for tables without a split column whose labels are called `task`."""
    return Kind(tasks=(task,), splits=("random",), sample_rate_hz=22_050, max_seconds=30.0, locate=locate)
