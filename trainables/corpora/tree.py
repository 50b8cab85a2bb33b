"""Corpora whose folders are the labels: GTZAN's, and any others.

    gtzan:PATH     PATH/GENRE/GENRE.NNNNN.wav or .au, perhaps one folder deeper (genres, genres_original),
                   and clips without labels in PATH/unlabelled or PATH/test
    folder:PATH    PATH/LABEL/NAME.wav, .flac, .ogg, .mp3, .aiff, .aif or .au

GTZAN: Tzanetakis and Cook 2002, doi:10.1109/TSA.2002.800560; its faults: Sturm 2013, arXiv:1306.1461.
"""

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from trainables.corpora.layout import UNLABELLED, Bad, Kind, Row
from trainables.corpora.listing import Listing, Part, clip_names, is_text, printable
from trainables.corpora.wording import counted
from trainables.errors import UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au")
GENRE_FOLDERS = ("genres_original", "genres")
UNLABELLED_FOLDERS = ("unlabelled", "test")
GTZAN_LAYOUT = "A corpus in GTZAN's layout is a folder with GENRE/GENRE.NNNNN.wav (or .au)"
FOLDER_LAYOUT = f"A corpus of labelled folders has LABEL/NAME{'|'.join(SUFFIXES)}"


# What can be passed over, in the singular and the plural.
HIDDEN = ("hidden file was", "hidden files were")
OUTSIDE = ("file outside the labels' folders was", "files outside the labels' folders were")
OTHERWISE = ("file that is not called like audio was", "files that are not called like audio were")
DEEPER = ("folder within a label's folder was", "folders within a label's folder were")
WITHOUT = ("folder without audio of its own was", "folders without audio of their own were")


@dataclass
class LeftOut:
    """What was passed over, by kind, with the first of each kind as an example."""

    found: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, what: tuple[str, str], path: str) -> None:
        """Note one more of a kind."""
        self.found.setdefault(what, []).append(printable(path))

    def remarks(self) -> tuple[str, ...]:
        """One sentence for each kind."""
        return tuple(
            f"{counted(len(paths), *what)} left out ({_endings(what, paths)}such as {paths[0]!r})"
            for what, paths in sorted(self.found.items())
        )


def _endings(what: tuple[str, str], paths: list[str]) -> str:
    """How many of each ending: nobody is to miss half a corpus for a format that is not read."""
    if what != OTHERWISE:
        return ""
    found = Counter(posixpath.splitext(path)[1].lower() or "without ending" for path in paths).most_common(3)
    return ", ".join(f"{n} {ending}" for ending, n in found) + "; "


def locate_folder(path: Path) -> Listing:
    """Find the labels under `path`; raises UserError where there are none."""
    _check_folder(path, FOLDER_LAYOUT)
    left, files = LeftOut(), dict[str, list[str]]()
    for entry in _entries(path):
        if label := _label(entry, left):
            files[label] = _audio_files(path, label, left)
            if not files[label]:
                left.add(WITHOUT, label)
    names = clip_names(file for of_label in files.values() for file in of_label)
    rows = [_row(file, names[file], label) for label, of_label in files.items() for file in of_label]
    if not rows:
        raise UserError(f"{FOLDER_LAYOUT}; {path} has none, it holds {_holds(path)}. {_deeper(path)}")
    return Listing(path, path.resolve(), {"": Part(tuple(rows), left.remarks())})


def _row(path: str, name: str, label: str) -> Row | Bad:
    if not is_text(path):
        return _undecodable("", path)
    return Row("", name, name, (unicodedata.normalize("NFC", label),), path)  # as two systems spell one name


def _undecodable(split: str, path: str) -> Bad:
    return Bad(split, printable(posixpath.splitext(path)[0]), printable(path), "unsafe name: no UTF-8")


def locate_gtzan(path: Path) -> Listing:
    """Find genres and unlabelled clips under `path`; raises UserError where there are no genres."""
    _check_folder(path, GTZAN_LAYOUT)
    for inner in ("", *GENRE_FOLDERS):
        left = LeftOut()
        rows = list(_genre_rows(path, inner, left)) if (path / inner).is_dir() else []
        if any(isinstance(row, Row) for row in rows):
            parts = {"": Part(tuple(rows), left.remarks())}
            unlabelled = _unlabelled(path, inner)
            return Listing(path, path.resolve(), {**parts, UNLABELLED: unlabelled} if unlabelled.rows else parts)
    raise UserError(f"{GTZAN_LAYOUT}; {path} holds {_holds(path)}. Give the folder of the genres, or use folder:PATH.")


def _genre_rows(path: Path, inner: str, left: LeftOut) -> Iterator[Row | Bad]:
    for entry in _entries(path / inner):
        if entry.name in UNLABELLED_FOLDERS or not (genre := _label(entry, left)):
            continue
        seen: set[str] = set()
        wanted = re.compile(rf"{re.escape(genre)}\.\d{{5}}\.(?i:wav|au)", re.ASCII)
        for file in _audio_files(path, f"{inner}/{genre}".lstrip("/"), left):
            found = PurePosixPath(file)
            if not is_text(file):
                yield _undecodable("", file)
            elif not wanted.fullmatch(found.name):
                yield Bad("", found.stem, file, f"odd name: it must be {genre}.NNNNN.wav or {genre}.NNNNN.au")
            elif found.stem in seen:
                yield Bad("", found.stem, file, "duplicate name: an earlier file has the same")
            else:
                seen.add(found.stem)
                yield Row("", found.stem, found.stem, (genre,), file)


def _unlabelled(path: Path, inner: str) -> Part:
    left, files = LeftOut(), list[str]()
    for folder in dict.fromkeys(f"{place}/{name}".lstrip("/") for place in ("", inner) for name in UNLABELLED_FOLDERS):
        if (path / folder).is_dir():
            files += _audio_files(path, folder, left)
    rows = (
        Row(UNLABELLED, name, name, ("",), file) if is_text(file) else _undecodable(UNLABELLED, file)
        for file, name in clip_names(files).items()
    )
    return Part(tuple(rows), left.remarks())


def _check_folder(path: Path, layout: str) -> None:
    if not path.is_dir():
        raise UserError(f"{layout}; {path} {'is a file' if path.is_file() else 'does not exist'}. Give that folder.")


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """What stands in a folder, by name; raises UserError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}). Check its permissions.") from error


def _label(entry: "os.DirEntry[str]", left: LeftOut) -> str:
    """The label that an entry stands for, or nothing."""
    if entry.name.startswith("."):
        left.add(HIDDEN, entry.name)
    elif not _is_folder(entry):
        left.add(OUTSIDE, entry.name)
    else:
        return entry.name
    return ""


def _audio_files(root: Path, folder: str, left: LeftOut) -> list[str]:
    """The paths, relative to `root`, of what is called like audio in a folder."""
    files = []
    for entry in _entries(root / folder):
        path = f"{folder}/{entry.name}"
        if entry.name.startswith("."):
            left.add(HIDDEN, path)
        elif PurePosixPath(entry.name).suffix.lower() in SUFFIXES:
            files.append(path)
        elif _is_folder(entry):
            left.add(DEEPER, path)
        else:
            left.add(OTHERWISE, path)
    return files


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _holds(path: Path) -> str:
    names = [printable(entry.name) for entry in _entries(path)]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing"


def _deeper(path: Path) -> str:
    """What to do about a folder whose subfolders hold no audio: name the one below that would do."""
    for entry in _entries(path):
        if _is_folder(entry) and not entry.is_symlink():
            below = path / entry.name
            if any(_is_folder(inner) and _audio_files(below, inner.name, LeftOut()) for inner in _entries(below)):
                return f"Give {printable(str(below))}, or list the files in a table and use csv:FILE."
    return "Give the folder that holds the labels' folders, or list the files in a table and use csv:FILE."


FOLDER = Kind(tasks=("label",), splits=("random",), sample_rate_hz=22_050, max_seconds=30.0, locate=locate_folder)
GTZAN = Kind(
    tasks=("genre",), splits=("random", "filtered"), sample_rate_hz=22_050, max_seconds=30.0, locate=locate_gtzan
)
