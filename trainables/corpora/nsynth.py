"""Corpora in the layout of NSynth, as folders or straight from the three `.tar.gz` files.

    PATH/nsynth-train/examples.json        or  PATH/nsynth-train*.tar.gz
    PATH/nsynth-train/audio/NAME.wav
    … and the same for valid and test

A row names a note, and its name is the file's: `synth_lead_synthetic_000-060-100`, split from the right.
Engel et al. 2017, arXiv:1704.01279.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from trainables.corpora import archive
from trainables.corpora.audio import BadAudio, check_size, read_file
from trainables.corpora.examples import Broken, Example, parse_examples
from trainables.corpora.layout import (
    CLIP_OVERHEAD_BYTES,
    SPLITS,
    Bad,
    Item,
    Kind,
    Row,
    Survey,
    file_checksum,
    fingerprint,
)
from trainables.corpora.wording import counted
from trainables.errors import UserError

LAYOUT = (
    "A corpus in NSynth's layout is a folder with nsynth-train, nsynth-valid and nsynth-test, each holding "
    "examples.json and audio/NAME.wav, or with the three archives nsynth-train*.tar.gz and so on"
)
NAME = re.compile(r"(?P<instrument>.+)-(?P<pitch>\d+)-(?P<velocity>\d+)", re.DOTALL)
TEXTS = ("instrument_str", "instrument_family_str", "instrument_source_str")
NUMBERS = ("pitch", "velocity")
MIDI = range(128)


@dataclass(frozen=True)
class Corpus:
    """`parts` maps each split to its folder or its archive; see layout.Corpus."""

    root: Path
    parts: Mapping[str, Path]

    def survey(self, clip_bytes: int) -> Survey:
        """Look at the folders' files, or at the archives as wholes."""
        disk = total = 0
        checksum = 0
        for split, part in self.parts.items():
            if not part.is_dir():
                found = part.stat()
                checksum += file_checksum(f"{split}/{part.name}", found)
                disk += archive.content_bytes(part)
                total += found.st_size
                continue
            checksum += file_checksum(f"{split}/examples.json", (part / "examples.json").stat())
            for entry in wav_files(part):
                found = _stat(entry)
                checksum += file_checksum(f"{split}/{entry.name}", found)
                disk += min(found.st_size, clip_bytes) + CLIP_OVERHEAD_BYTES
                total += 1
        return Survey(fingerprint(self.root, checksum), disk, total)

    def rows(self, spool: Path | None = None) -> Iterator[Row | Bad]:
        """Stream the rows of all three lists; archived ones are read from `spool`, where `items` has put them.

        Raises UserError for a bad `examples.json` on the way.
        """
        seen: set[str] = set()
        for split in SPLITS:
            yield from scan_split(self, split, seen, spool)

    def items(self, spool: Path) -> Iterator[Item]:
        """Yield from a folder the files that its rows name, from an archive all; its list goes to `spool`."""
        seen: set[str] = set()
        before = 0
        for split in SPLITS:
            part = self.parts[split]
            if part.is_dir():
                for item in _folder_items(self, split, seen, before):
                    yield item
                    before = item.reached
            else:
                yield from _archive_items(part, split, before, spool)
                before += part.stat().st_size

    def notes(self, split: str, listed: Set[str], decoded: Set[str]) -> tuple[str, ...]:
        """Say how many files have no row."""
        part = self.parts[split]
        if part.is_dir():
            unlisted = sum(entry.name.removesuffix(".wav") not in listed for entry in wav_files(part))
        else:
            unlisted = len(decoded - listed)
        without = "without a row in examples.json"
        found = counted(unlisted, f"file {without} was", f"files {without} were")
        return (f"{split}: {found} left out",) if unlisted else ()


def audio_path(split: str, name: str) -> str:
    """Return where the note `name` lies, relative to the corpus."""
    return f"nsynth-{split}/audio/{name}.wav"


def locate(path: Path) -> Corpus:
    """Find the three splits under `path`; a folder goes before an archive.

    Raises UserError, saying what the layout is and what was found, where a split is missing.
    """
    if not path.is_dir():
        what = "is a file" if path.is_file() else "does not exist"
        raise UserError(f"{LAYOUT}; {path} {what}. Give the folder that holds the three splits.")
    return Corpus(path, {split: _locate_split(path, split) for split in SPLITS})


def _locate_split(path: Path, split: str) -> Path:
    folder = path / f"nsynth-{split}"
    if folder.is_dir():
        if (folder / "examples.json").is_file():
            return folder
        raise UserError(f"{LAYOUT}; {folder} has no examples.json. Copy it there from the original corpus.")
    archives = sorted(path.glob(f"nsynth-{split}*.tar.gz"))
    if len(archives) > 1:
        names = ", ".join(found.name for found in archives)
        raise UserError(f"There must be one archive for nsynth-{split}, but {path} holds {names}. Keep one.")
    if not archives:
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise UserError(f"{LAYOUT}; {path} has no nsynth-{split}, it holds {names}. {_nearby(path)}")
    return archives[0]


def _nearby(path: Path) -> str:
    """What to do about a folder that is no corpus: name the one above or below that is."""
    for near in (path.parent, *sorted(entry for entry in path.iterdir() if entry.is_dir())):
        if any(near.glob("nsynth-train*")):
            return f"Give {near}."
    return "Give the folder that holds the three splits."


def scan_split(corpus: Corpus, split: str, seen: set[str], spool: Path | None = None) -> Iterator[Row | Bad]:
    """Stream the rows of one split; names in `seen` are duplicates, and new ones are added to it.

    Raises UserError where there is none.
    """
    rows = _rows(corpus, split, seen, spool)
    first = next(rows, None)
    if first is None:
        raise UserError(
            f"Each split needs notes, but nsynth-{split}/examples.json has no row. Copy it from the original corpus."
        )
    yield first
    yield from rows


def _rows(corpus: Corpus, split: str, seen: set[str], spool: Path | None) -> Iterator[Row | Bad]:
    part = corpus.parts[split]
    if part.is_dir():
        yield from _scan_file(part / "examples.json", split, seen)
    elif spool is not None and spooled(spool, split).is_file():
        yield from _scan_file(spooled(spool, split), split, seen)
    else:
        for member in archive.members(part):
            if member.path.as_posix() == f"nsynth-{split}/examples.json" and not member.refusal:
                yield from _scan_stream(member.file, f"{part}: {member.path}", split, seen)
                return
        raise UserError(f"{LAYOUT}; {part} holds no nsynth-{split}/examples.json. Fetch the archive again.")


def spooled(spool: Path, split: str) -> Path:
    """Return where `Corpus.items` leaves an archive's `examples.json`."""
    return spool / f"examples-{split}.json"


def _scan_file(path: Path, split: str, seen: set[str]) -> Iterator[Row | Bad]:
    try:
        with path.open("rb") as stream:
            yield from _scan_stream(stream, str(path), split, seen)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error


def _scan_stream(stream: IO[bytes], where: str, split: str, seen: set[str]) -> Iterator[Row | Bad]:
    for example in parse_examples(stream, where):
        row = check_row(split, example)
        if isinstance(row, Row):
            if row.name in seen:
                row = Bad(split, row.name, row.path, "duplicate name: an earlier row has the same")
            else:
                seen.add(row.name)
        yield row


def check_row(split: str, example: Example | Broken) -> Row | Bad:
    """Return the row if its fields are there, of the right type, and agree with its name; else why not."""
    name = example.name.encode("utf-8", "backslashreplace").decode()
    if isinstance(example, Broken):
        return Bad(split, name, f"nsynth-{split}/examples.json", example.reason)
    reason = _fault(example.name, example.fields)
    if reason or not isinstance(example.fields, dict):
        return Bad(split, name, f"nsynth-{split}/examples.json", reason)
    instrument, family, source = (sys.intern(example.fields[key]) for key in TEXTS)
    pitch, velocity = (example.fields[key] for key in NUMBERS)
    return Row(split, example.name, instrument, (family, source), audio_path(split, example.name), (pitch, velocity))


def _fault(name: str, fields: object) -> str:
    if not name or not _is_text(name) or re.search(r"[/\\\0]", name) or name in (".", ".."):
        return "unsafe name: a note's name must be a plain file name"
    if not isinstance(fields, dict):
        return "wrong field: the row is not an object"
    for key in ("note_str", *TEXTS, *NUMBERS):
        if key not in fields:
            return f"missing field: {key}"
    for key in TEXTS:
        if not _is_text(fields[key]) or not fields[key]:
            return f"wrong field: {key} must be a text, but is {fields[key]!r:.40}"
    for key in NUMBERS:
        if type(fields[key]) is not int or fields[key] not in MIDI:
            return f"wrong field: {key} must be a whole number in 0–127, but is {fields[key]!r:.40}"
    if fields["note_str"] != name:
        return f"wrong name: note_str is {fields['note_str']!r:.80}"
    told = NAME.fullmatch(name)
    if told and (told["instrument"], int(told["pitch"]), int(told["velocity"])) != (
        fields["instrument_str"],
        fields["pitch"],
        fields["velocity"],
    ):
        return "wrong name: it contradicts the row's instrument, pitch or velocity"
    return ""


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: valid JSON, but no text
        return False
    return True


def _stat(entry: "os.DirEntry[str]") -> os.stat_result:
    try:
        return entry.stat()  # a link counts with what it leads to
    except OSError:
        return entry.stat(follow_symlinks=False)


def wav_files(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """Yield what is called *.wav in the split `folder`, in no order; nothing where `audio` is missing."""
    try:
        with os.scandir(folder / "audio") as entries:
            yield from (entry for entry in entries if entry.name.endswith(".wav"))
    except OSError:  # every row will say "no such file", or why it could not be opened
        return


def _folder_items(corpus: Corpus, split: str, seen: set[str], before: int) -> Iterator[Item]:
    inside = (corpus.root.resolve(), corpus.parts[split].resolve())
    audio = corpus.parts[split] / "audio"
    leads_out = not any(audio.resolve().is_relative_to(folder) for folder in inside)
    for row in scan_split(corpus, split, seen):
        if isinstance(row, Row):
            before += 1
            load = _linked_folder if leads_out else partial(read_file, audio / f"{row.name}.wav", inside)
            yield Item(split, row.name, row.path, load, 0, before)


def _linked_folder() -> bytes:
    raise BadAudio("link: the audio folder leads out of the corpus, and is never followed")


def _archive_items(part: Path, split: str, before: int, spool: Path) -> Iterator[Item]:
    with archive.readable(part):
        for member in archive.members(part):
            path = member.path.as_posix()
            audio = len(member.path.parts) == 3 and path.startswith(f"nsynth-{split}/audio/") and path.endswith(".wav")
            if member.refusal or audio:
                name = member.path.stem if audio else ""
                load, held = _archived(member)
                yield Item(split, name, path, load, held, before + member.reached)
            elif path == f"nsynth-{split}/examples.json":
                with spooled(spool, split).open("wb") as copy:
                    shutil.copyfileobj(member.file, copy)


def _archived(member: archive.Member) -> tuple[Callable[[], bytes], int]:
    try:
        if member.refusal:
            raise BadAudio(member.refusal)
        check_size(member.size)
    except BadAudio as refusal:
        return partial(_refuse, str(refusal)), 0
    data = member.file.read(member.size)  # without a size, tarfile hands out 8 KiB at a time
    return partial(bytes, data), len(data)


def _refuse(reason: str) -> bytes:
    raise BadAudio(reason)


KIND = Kind(
    tasks=("family", "source"),
    splits=("official",),
    sample_rate_hz=16_000,
    max_seconds=4.0,
    locate=locate,
    details=NUMBERS,
)
