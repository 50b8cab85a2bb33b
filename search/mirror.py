"""A study in an object store: worked on in a copy on this machine, with every step put there before it counts.

Objects cannot be appended to. So each row of the journal is an object of its own, `rows/SEQ.json`, until the session's
end or some hundreds of rows later, when they become lines of `trials.jsonl` and `epochs.jsonl` again. Checkpoints
are put there by the workers that make them.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from search.records import EPOCHS, METRICS, ROWS, SPEC, SUMMARY, TRIALS, as_line, as_row, read_rows
from trainables.corpora.store import stores_folder
from trainables.errors import UserError
from trainables.files import BEST_WEIGHTS, replace_file
from trainables.folder import Folder, open_folder, patiently

LOCK, ORIGIN = "lock.json", ".storage"
JOURNALS = (TRIALS, EPOCHS)

_ROWS_KEPT_APART = 300
_HEARTBEAT_SECONDS = 60.0
_STALE_SECONDS = 300.0
_READ_BACK_SECONDS = 1.0
_NOT_MIRRORED = {"checkpoints", "logs", ".tune"}


def working_copies(address: str) -> Path:
    """The folder on this machine for the studies at an address."""
    readable = re.sub(r"[^\w.-]+", "-", address.partition("://")[2]).strip("-")[-60:]
    digest = hashlib.sha256(address.encode()).hexdigest()[:8]
    folder = stores_folder().parent / "studies" / f"{readable}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ORIGIN).write_text(address, encoding="utf-8")
    return folder


def address_of(directory: Path) -> str:
    """How a person names a folder: its address in the object store if it is a working copy, else its path.

    Only what `working_copies` wrote is believed: a study that came from elsewhere must not say where it is written to.
    """
    copies = stores_folder().parent / "studies"
    for parent in (directory, *directory.parents):
        origin = parent / ORIGIN
        if parent.parent == copies and origin.is_file():
            inner = directory.relative_to(parent).as_posix()
            address = origin.read_text(encoding="utf-8").rstrip("/")
            return address if inner == "." else f"{address}/{inner}"
    return str(directory)


def mirror_of(directory: Path) -> "Mirror | None":
    """The counterpart of a working copy; None for a folder that is no such."""
    address = address_of(directory)
    return Mirror(directory, open_folder(address)) if "://" in address else None


class _TakenError(Exception):
    """Another process runs the study by now."""


@dataclass
class Mirror:
    """A working copy and its counterpart. `say` is told when the store has to be waited for.

    A process whose link was cut for longer than its lock holds may come back while another goes on with the study: it
    finds another token in the lock then, and writes nothing more.
    """

    local: Path
    remote: Folder
    say: Callable[[str], None] = lambda words: None
    _apart: int = field(default=0, init=False)
    _lost: UserError | None = field(default=None, init=False)
    _token: str = field(default="", init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)

    def inner(self, name: str) -> "Mirror":
        """That of a folder in it."""
        return Mirror(self.local / name, self.remote / name, self.say)

    def stubs(self) -> None:
        """Makes an empty folder here for each one there, so that names that are taken are known; raises UserError."""
        for name in self.remote.folders():
            (self.local / name).mkdir(exist_ok=True)

    def fetch(self, *names: str) -> None:
        """Brings these files here where they are there; raises UserError."""
        for name in names:
            if self.remote.has(name):
                self._write(name, self.remote.read(name))

    def fetch_study(self) -> None:
        """Brings a study's record, journal and scored models here. What is only here is put there.

        A machine that was lost in the middle of a step may have written a row that never got there, or the other way
        round; one is always the beginning of the other. Raises UserError where they contradict each other.
        """
        self.fetch(SPEC, "quarantine.csv", "repairs.csv", SUMMARY)
        for folder, name in _all_files(self.remote / "best"):
            self._write(f"best/{folder}{name}", (self.remote / "best").read(f"{folder}{name}"))
        there = {row["seq"]: row for row in self._rows_there()}
        here = {row["seq"]: row for name in JOURNALS for row in read_rows(self.local / name)}
        if any(here[seq] != there[seq] for seq in here.keys() & there.keys()):
            raise UserError(
                f"A study has one history, but that in {self.remote.address} is another than that in {self.local}. "
                f"Remove the latter if the former is right."
            )
        rows = {**here, **there}
        for name in JOURNALS:
            wanted = [seq for seq in sorted(rows) if (rows[seq]["event"] == "epoch") == (name == EPOCHS)]
            if wanted:
                self._write(name, b"".join(as_line(rows[seq]) for seq in wanted))
        for seq in sorted(here.keys() - there.keys()):
            self.row(here[seq])

    def row(self, row: dict[str, Any]) -> None:
        """Puts a row of the journal there. Waits for a store that cannot be reached."""
        name, line = f"{row['seq']:08d}.json", as_line(row)
        self._change(lambda: (self.remote / ROWS).write(name, line), "writing the journal")
        self._apart += 1
        if self._apart >= _ROWS_KEPT_APART:
            self.gather()

    def gather(self) -> None:
        """Makes lines of the journal of rows that lie apart."""
        self.push(*(name for name in JOURNALS if (self.local / name).exists()))
        self._change((self.remote / ROWS).clear, "tidying the journal")
        self._apart = 0

    def push(self, *names: str) -> None:
        """Puts these files of the working copy there."""
        for name in names:
            content = (self.local / name).read_bytes()
            self._change(lambda name=name, content=content: self._put(name, content), f"writing {name}")  # type: ignore[misc]

    def push_all(self) -> None:
        """Puts everything there but checkpoints, which are there, and Ray's own words.

        A model's metrics come last, as they do here, so that they never name a model that got there in part.
        """
        files = sorted(self.local.rglob("*"), key=lambda path: (path.name == METRICS, path))
        names = (path.relative_to(self.local) for path in files if path.is_file())
        self.push(
            *(
                str(n)
                for n in names
                if n.parts[0] not in _NOT_MIRRORED and not n.name.startswith(".") and n.name not in JOURNALS
            )
        )

    def keep_checkpoints(self, kept: set[str]) -> None:
        """Removes the checkpoints there of all trials but these, given as folder names."""
        place = self.remote / "checkpoints"

        def tidy() -> None:
            for name in place.folders():
                if name not in kept:
                    (place / name).clear()

        self._change(tidy, "removing checkpoints")

    def fetch_weights(self, folder: Path) -> None:
        """Brings a trial's best weights here, if they are there; what is here may be older."""
        place = self.remote / "checkpoints" / folder.name
        if self._patiently(lambda: place.has(BEST_WEIGHTS), "looking for weights"):
            content = self._patiently(lambda: place.read(BEST_WEIGHTS), "reading weights")
            replace_file(folder / BEST_WEIGHTS, lambda path: path.write_bytes(content))

    def lock(self) -> None:
        """Takes the study for this process, and keeps it until `unlock`; raises UserError where another has it."""
        mine = f"{socket.gethostname()} {os.getpid()}"
        held = self._holder()
        age = abs(time.time() - _time(held))  # a clock that is ahead must not hold it for ever
        if held and held.get("owner") != mine and age < _STALE_SECONDS and not _ended_here(held):
            raise UserError(
                f"One process at a time may run a study, but {held.get('owner')} was running {self.remote.address} "
                f"{age:.0f} s ago. Wait for it or stop it; after {_STALE_SECONDS / 60:.0f} minutes of silence it "
                f"counts as gone."
            )
        self._token, self._over = uuid.uuid4().hex, threading.Event()
        try:
            self._beat(mine)
        except OSError as error:
            raise UserError(
                f"--storage must be writable, but {self.remote.address} is not ({error}). Check its name and the "
                f"credentials."
            ) from error
        time.sleep(_READ_BACK_SECONDS)  # of several that found it free at once, the last to write has it
        self._or_user_error(self._check_mine)
        threading.Thread(target=self._keep_beating, args=(mine,), daemon=True).start()

    def unlock(self) -> None:
        """Lets another process have the study."""
        self._over.set()
        self._patiently(self._let_go, "letting go of the study")

    def abandon(self) -> None:
        """The same for a process that must end now: tries once."""
        self._over.set()
        with contextlib.suppress(OSError, UserError):
            self._let_go()

    def withdraw(self) -> None:
        """Removes there what a study that could not begin has written; nothing else that may lie there."""
        for name in ("study.json", "quarantine.csv", "repairs.csv", *JOURNALS):
            self._change(lambda name=name: self.remote.remove(name), "taking the study back")  # type: ignore[misc]
        self._change((self.remote / ROWS).clear, "taking the study back")

    def _let_go(self) -> None:
        if self._holder().get("token") == self._token:
            self.remote.remove(LOCK)

    def _holder(self) -> dict[str, Any]:
        """What the lock says; nothing where there is none, or one that cannot be understood."""
        if not self.remote.has(LOCK):
            return {}
        try:
            held = json.loads(self.remote.read(LOCK))
        except (RecursionError, ValueError):
            return {}
        return held if isinstance(held, dict) else {}

    def _check_mine(self) -> None:
        """Raises _TakenError where another process has the study by now."""
        held = self._holder()
        if self._token and held and held.get("token") != self._token:
            raise _TakenError(f"{held.get('owner')} has it")

    def _keep_beating(self, mine: str) -> None:
        while not self._over.wait(_HEARTBEAT_SECONDS):
            try:
                self._check_mine()
                self._beat(mine)
            except (OSError, UserError):
                continue  # the journal waits for the store and says so; the next beat will come
            except _TakenError:
                return  # the next row finds it out

    def _beat(self, mine: str) -> None:
        held = {"owner": mine, "token": self._token, "system": _system(), "time": time.time()}
        self.remote.write(LOCK, json.dumps(held).encode())

    def _put(self, name: str, content: bytes) -> None:
        *folders, last = name.split("/")
        place = self.remote
        for folder in folders:
            place = place / folder
        place.write(last, content)

    def _rows_there(self) -> Iterator[dict[str, Any]]:
        for name in JOURNALS:
            if self.remote.has(name):
                yield from (
                    as_row(line, f"{self.remote.address}/{name}") for line in self.remote.read(name).splitlines()
                )
        place = self.remote / ROWS
        for name in place.files():
            yield as_row(place.read(name), f"{place.address}/{name}")

    def _write(self, name: str, content: bytes) -> None:
        replace_file(self.local / name, lambda path: path.write_bytes(content))

    def _change(self, action: Callable[[], Any], what: str) -> None:
        """Does something to the store, with patience, unless another process has the study by now."""

        def checked() -> None:
            self._check_mine()
            action()

        self._patiently(checked, what)

    def _patiently(self, action: Callable[[], Any], what: str) -> Any:
        """Waits for the store, but not once more after it was waited for in vain or another process has the study."""
        if self._lost:
            raise UserError(str(self._lost))
        try:
            return self._or_user_error(lambda: patiently(action, self.say, what))
        except UserError as error:
            self._lost = error
            raise

    def _or_user_error(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except _TakenError as error:
            raise UserError(
                f"One process at a time may run a study, but another took {self.remote.address} up while this one "
                f"could not reach it, or at the same moment ({error}). Leave it to that one."
            ) from error


def _time(held: dict[str, Any]) -> float:
    try:
        return float(held.get("time", 0))
    except (TypeError, ValueError):
        return 0.0


def _system() -> str:
    """Names what this process' number is unique in: this machine since it was started, or a container; "" unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _ended_here(held: dict[str, Any]) -> bool:
    """Whether the process that has a study ran on this machine and is no more, so that nobody need wait for it."""
    number = str(held.get("owner", "")).rpartition(" ")[2]
    return (
        bool(_system()) and held.get("system") == _system() and number.isdigit() and not psutil.pid_exists(int(number))
    )


def _all_files(place: Folder, inner: str = "") -> Iterator[tuple[str, str]]:
    """Each file below a folder, as the folder's path within it (empty or ending in a slash) and its name."""
    yield from ((inner, name) for name in place.files())
    for name in place.folders():
        yield from _all_files(place / name, f"{inner}{name}/")
