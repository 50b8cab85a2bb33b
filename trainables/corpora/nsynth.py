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
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from trainables.corpora import archive
from trainables.corpora.audio import BadAudio, check_size, read_file
from trainables.corpora.examples import Broken, Example, parse_examples
from trainables.errors import UserError

SPLITS = ("train", "valid", "test")
LAYOUT = (
    "A corpus in NSynth's layout is a folder with nsynth-train, nsynth-valid and nsynth-test, each holding "
    "examples.json and audio/NAME.wav, or with the three archives nsynth-train*.tar.gz and so on"
)
NAME = re.compile(r"(?P<instrument>.+)-(?P<pitch>\d+)-(?P<velocity>\d+)", re.DOTALL)
TEXTS = ("instrument_str", "instrument_family_str", "instrument_source_str")
NUMBERS = ("pitch", "velocity")
MIDI = range(128)
NOTE_OVERHEAD_BYTES = 1_000  # journal, labels and digests of one note on disk, generously


@dataclass(frozen=True)
class Row:
    """One usable row of `examples.json`; `pitch` is a MIDI number, `velocity` lies in 0–127."""

    split: str
    name: str
    family: str
    source: str
    instrument: str
    pitch: int
    velocity: int

    @property
    def path(self) -> str:
        """Where the note's audio lies, relative to the corpus."""
        return audio_path(self.split, self.name)


@dataclass(frozen=True)
class Bad:
    """One thing that cannot be used, and why; `name` is empty where it belongs to no note."""

    split: str
    name: str
    path: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """`parts` maps each split to its folder or its archive."""

    root: Path
    parts: Mapping[str, Path]


@dataclass(frozen=True)
class Item:
    """One note's audio, still encoded: `load` returns it or raises BadAudio.

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


def scan(path: Path) -> Iterator[Row | Bad]:
    """Stream the rows of all three splits without touching audio; a name comes as Row at most once.

    Raises UserError for a missing path or a wrong layout at once, for a bad `examples.json` on the way.
    """
    return scan_corpus(locate(path))


def scan_corpus(corpus: Corpus, spool: Path | None = None) -> Iterator[Row | Bad]:
    """Like `scan`; archived lists are read from the folder `spool`, where `audio_items` has put them."""
    seen: set[str] = set()
    for split in SPLITS:
        yield from scan_split(corpus, split, seen, spool)


def scan_split(corpus: Corpus, split: str, seen: set[str], spool: Path | None = None) -> Iterator[Row | Bad]:
    """Stream the rows of one split; names in `seen` are duplicates, and new ones are added to it."""
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
    """Return where `audio_items` leaves an archive's `examples.json`."""
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
    return Row(split, example.name, family, source, instrument, pitch, velocity)


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


def metadata(path: Path) -> pd.DataFrame:
    """Return the usable rows of a corpus without decoding audio, in the corpus's own order.

    Columns: name, split, family, source, instrument, pitch (MIDI), velocity, path. Raises UserError like
    `scan`.
    """
    texts: dict[str, list[str]] = {key: [] for key in ("name", "split", "family", "source", "instrument")}
    pitches, velocities = array("q"), array("q")
    for row in scan(path):
        if isinstance(row, Row):
            for key, column in texts.items():
                column.append(getattr(row, key))
            pitches.append(row.pitch)
            velocities.append(row.velocity)
    frame = pd.DataFrame(texts, dtype="str")
    frame["pitch"] = np.array(pitches, dtype=np.int64)
    frame["velocity"] = np.array(velocities, dtype=np.int64)
    frame["path"] = "nsynth-" + frame["split"] + "/audio/" + frame["name"] + ".wav"
    return frame


def survey(corpus: Corpus, clip_bytes: int) -> Survey:
    """Look at every file's name, size and time; `clip_bytes` is the most that one decoded note can take."""
    disk = total = 0
    checksum = 0  # a sum of hashes, so that neither order nor memory matters
    for split, part in corpus.parts.items():
        if not part.is_dir():
            found = part.stat()
            checksum += _checksum(f"{split}/{part.name}", found)
            disk += archive.content_bytes(part)
            total += found.st_size
            continue
        checksum += _checksum(f"{split}/examples.json", (part / "examples.json").stat())
        for entry in wav_files(part):
            found = _stat(entry)
            checksum += _checksum(f"{split}/{entry.name}", found)
            disk += min(found.st_size, clip_bytes) + NOTE_OVERHEAD_BYTES
            total += 1
    where = os.fsencode(f"{corpus.root.resolve()}\0{checksum % 2**128:032x}")
    return Survey(sha256(where).hexdigest()[:32], disk, total)


def _checksum(name: str, found: os.stat_result) -> int:
    return int.from_bytes(sha256(os.fsencode(f"{name}\0{found.st_size}\0{found.st_mtime_ns}")).digest()[:16])


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


def audio_items(corpus: Corpus, spool: Path) -> Iterator[Item]:
    """Yield the audio of all splits, in an order that depends on the corpus alone.

    From a folder come the files that its rows name, from an archive all; its `examples.json` goes to `spool`.
    """
    seen: set[str] = set()
    before = 0
    for split in SPLITS:
        part = corpus.parts[split]
        if part.is_dir():
            for item in _folder_items(corpus, split, seen, before):
                yield item
                before = item.reached
        else:
            yield from _archive_items(part, split, before, spool)
            before += part.stat().st_size


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
