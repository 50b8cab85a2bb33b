"""The study directory: a journal of all that happens, and the only source of truth about a study.

`study.json` holds what was asked for and is written before the first trial. `trials.jsonl` has a line for every
session, trial start and trial end, `epochs.jsonl` one for every epoch with the decision taken on it. Lines are
numbered through both files by `seq`, appended and brought to the disk before anything is done upon them.
"""

import contextlib
import heapq
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from trainables.errors import UserError
from trainables.files import BEST_WEIGHTS, sync

if TYPE_CHECKING:
    from search.mirror import Mirror

Row = dict[str, Any]

_RESTORE = "Restore the study's directory from a copy, or begin a new study."

SPEC, TRIALS, EPOCHS, SUMMARY = "study.json", "trials.jsonl", "epochs.jsonl", "summary.json"
ROWS = "rows"  # in an object store the latest rows, a file each
METRICS = "metrics.json"  # in a scored model's folder, written last
BASELINES, SUBMISSION = "baselines", "submission.csv"  # in the folder of the chosen model
FAMILIES = "families.json"  # beside the studies of a comparison


def read_rows(path: Path) -> list[Row]:
    """The complete lines of a journal file; a last line that was cut off by a crash is left out."""
    return list(stream_rows(path))


def stream_rows(path: Path) -> Iterator[Row]:
    """The rows that `read_rows` gives, one by one."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield as_row(line, path)


def as_row(line: bytes, file: str | Path) -> Row:
    """The row that a line of the journal file holds; raises UserError, which names the file."""
    try:
        row: Row = json.loads(line)
    except (RecursionError, ValueError) as error:
        raise UserError(
            f"Every line of a journal must be JSON, but {file} has one that is not ({error}). {_RESTORE}"
        ) from error
    return row


def as_line(row: Row) -> bytes:
    """A row as a line of a journal file."""
    return json.dumps(row, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def read_journal(directory: Path) -> list[Row]:
    """All rows of a study in the order in which they were written; works while the study runs.

    A reader beside a running study may see a row of the one file before an earlier row of the other.
    """
    return sorted((*read_rows(directory / TRIALS), *read_rows(directory / EPOCHS)), key=lambda row: row["seq"])


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds a directory, made where it is missing, that one process at a time may work on; raises UserError."""
    lock = _lock(directory)
    try:
        yield
    finally:
        lock.release()


def _lock(directory: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(directory / ".lock")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(
            f"One process at a time may run a study, but another is running {directory.name}. "
            f"Wait for it, stop it, or choose another --name."
        ) from None
    except OSError as error:
        raise UserError(
            f"A study needs a directory that can be written, but {directory} cannot be "
            f"({error.strerror or error}). Name another place with --storage."
        ) from error
    return lock


class Journal:
    """A study directory opened for writing, by one process at a time.

    `listen` is called with every row once it is written, with a `mirror` also in the object store. `length` is
    the number of its rows; they are not kept in memory, since a long study has a hundred thousand.
    """

    def __init__(
        self, directory: Path, listen: Callable[[Row], None] = lambda row: None, mirror: "Mirror | None" = None
    ) -> None:
        self.directory, self.listen, self.mirror = directory, listen, mirror
        self._lock = _lock(directory)
        for name in (TRIALS, EPOCHS):
            _drop_torn_line(directory / name)
        if mirror is None:
            _take_in_rows_apart(directory)
        # Whether rows of epochs may not be on the disk yet, perhaps of a process that was killed.
        self._unsynced = (directory / EPOCHS).exists()
        # Going on without rows that are missing would decide otherwise than before.
        self.length = 0
        for row in self.stream():
            if row["seq"] != self.length:
                raise UserError(
                    f"A journal must be whole, but row {self.length} of {directory} is missing or there twice. "
                    f"{_RESTORE}"
                )
            self.length += 1

    def stream(self) -> Iterator[Row]:
        """All rows so far, one by one, from the disk."""
        return heapq.merge(*(stream_rows(self.directory / n) for n in (TRIALS, EPOCHS)), key=lambda row: row["seq"])

    @property
    def rows(self) -> list[Row]:
        """All rows so far, from the disk."""
        return list(self.stream())

    def session(self, **fields: Any) -> None:
        """Notes that a process began to work on the study."""
        self._append(TRIALS, {"event": "session", "pid": os.getpid(), **fields})

    def started(self, trial: int, **fields: Any) -> None:
        """Notes that a trial began."""
        self._append(TRIALS, {"event": "started", "trial": trial, **fields})

    def ended(self, trial: int, state: str, reason: str | None) -> None:
        """Notes that a trial ended."""
        self._append(TRIALS, {"event": "ended", "trial": trial, "state": state, "reason": reason})

    def epoch(self, trial: int, report: Row, rung: int | None, decision: str) -> None:
        """Notes an epoch and what was decided on it, in one line, so that neither stands without the other.

        Where nothing was decided the disk is not waited for: after a power cut the trial reports the epoch again, from
        its checkpoint.
        """
        row = {"event": "epoch", "trial": trial, **report, "rung": rung, "decision": decision}
        self._append(EPOCHS, row, lasting=rung is not None or decision != "continue")

    def session_ended(self, *, refused: bool = False) -> None:
        """Notes that a process no longer works on the study, so that its time counts in full.

        It was `refused` where what it was asked to do cannot be done.
        """
        row: Row = {"event": "session ended", "pid": os.getpid()}
        self._append(TRIALS, {**row, "refused": True} if refused else row)

    def close(self) -> None:
        """Lets another process have the study."""
        self._lock.release()

    def _append(self, name: str, row: Row, *, lasting: bool = True) -> None:
        row = {"seq": self.length, "time": round(time.time(), 3), **row}
        line = as_line(row)
        path = self.directory / name
        size = path.stat().st_size if path.exists() else 0
        try:
            if self._unsynced and name != EPOCHS:  # no row is on the disk before an earlier one of the other file
                sync(self.directory / EPOCHS)
                self._unsynced = False
            with path.open("ab") as file:
                file.write(line)
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
            if name == EPOCHS:
                self._unsynced = not lasting
        except OSError:
            if path.exists():
                os.truncate(path, size)
            raise
        self.length += 1
        if self.mirror:
            self.mirror.row(row)
        self.listen(row)

    def folder(self, trial: int) -> Path:
        """Where a trial keeps its checkpoint."""
        return self.directory / "checkpoints" / _folder_name(trial)

    def checkpoint_address(self, trial: int) -> str | None:
        """Where in the object store a trial keeps its checkpoint, if the study lies in one."""
        return f"{self.mirror.remote.address}/checkpoints/{self.folder(trial).name}" if self.mirror else None

    def keep_weights(self, trials: Iterable[int], live: Iterable[int]) -> None:
        """Removes the checkpoints of all trials but these: of `live` all is kept, of `trials` the weights."""
        weights, whole = set(map(_folder_name, trials)), set(map(_folder_name, live))
        if self.mirror:
            self.mirror.keep_checkpoints(weights | whole)
        folder = self.directory / "checkpoints"
        for name in {entry.name for entry in os.scandir(folder)} - whole if folder.is_dir() else ():
            if not re.fullmatch(r"\d{4,}", name):
                continue
            path = folder / name
            if name not in weights or not (path / BEST_WEIGHTS).exists():
                shutil.rmtree(path, ignore_errors=True)
                continue
            for file in path.iterdir():
                if file.name != BEST_WEIGHTS:
                    file.unlink()


def _folder_name(trial: int) -> str:
    return f"{trial:04d}"


def elapsed_seconds(rows: Iterable[Row]) -> float:
    """Wall-clock seconds during which sessions worked on a study, from its journal."""
    total, previous = 0.0, None
    for row in rows:
        if previous is not None and row["event"] != "session":
            total += max(0.0, row["time"] - previous)
        previous = row["time"]
    return total


def _take_in_rows_apart(directory: Path) -> None:
    """Makes lines of the rows that lie apart in a copy of an object store, unless they are lines already."""
    files = sorted((directory / ROWS).glob("*.json"))
    if not files:
        return
    known = {row["seq"] for name in (TRIALS, EPOCHS) for row in stream_rows(directory / name)}
    for path in files:
        # Objects have no line break where one is looked for, so each is one whole row.
        for row in stream_rows(path):
            if row["seq"] not in known:
                with (directory / (EPOCHS if row["event"] == "epoch" else TRIALS)).open("ab") as file:
                    file.write(as_line(row))
    shutil.rmtree(directory / ROWS)


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
