"""Corpora named by a table: a CSV file with the columns path and label, and perhaps group and split.

    path,label,group,split
    takes/one.wav,oboe,anna,train

Paths are relative to the table's folder; absolute ones are taken as they are. An empty label marks a clip that is
to be predicted only. Clips of one group (a speaker, a take, an artist) stay on one side of every split.
"""

import csv
import io
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainables.corpora.layout import SPLITS, UNLABELLED, Bad, Kind, Row
from trainables.corpora.listing import Listing, Part, clip_names
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
    lines = list(_lines(path, folder))
    if not lines:
        raise UserError(f"{EXAMPLE}; {path} has no row below its header. Add one for every clip.")
    _check_unique(path, lines)
    names = clip_names(line.path for line in lines)
    rows: dict[str, list[Row | Bad]] = {split: [] for split in (*SPLITS, "", UNLABELLED)}
    for line in lines:
        rows[line.split].append(_row(line, names[line.path]))
    return Listing(path, folder, {split: Part(tuple(found)) for split, found in rows.items() if found})


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


def _lines(path: Path, folder: Path) -> Iterator[Line]:
    table = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = [name.strip().casefold() for name in next(table, [])]
        _check_header(path, header)
        for cells in table:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"Every row must have the {len(header)} cells of the header, but line {table.line_num} of {path} "
                    f"has {len(cells)}. Put a text that holds a comma between double quotes."
                )
            yield _line(path, folder, table.line_num, header, cells)
    except csv.Error as error:
        raise UserError(
            f"{EXAMPLE}; line {table.line_num} of {path} is none ({error}). Save the table as CSV again."
        ) from error


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
            f"Name the columns there, separated by commas."
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
    return Line(number, _shortest(found["path"], folder), found["label"], found.get("group", ""), split)


def _shortest(written: str, folder: Path) -> str:
    """The same path without detours, relative where it lies in the folder, so that a corpus may be moved."""
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
