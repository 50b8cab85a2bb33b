"""Whose a trial is: the worker that took it up last. Only that one may write its checkpoint.

A node that is cut off goes on with the epoch in flight while another takes the trial up. Could it still write when its
link is mended, it would replace newer weights by older ones.
"""

import uuid
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from trainables.errors import UserError
from trainables.files import replace_file
from trainables.folder import Folder

CLAIM, MARK = "worker", ".session"


class SupersededError(Exception):
    """Another worker took the trial up: what this one did since is not wanted."""


@dataclass(frozen=True)
class Claim:
    """A worker's claim on a trial's checkpoint in `folder` and, for a study in an object store, in `remote`."""

    folder: Path
    remote: Folder | None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def stake(self) -> None:
        """Makes the folder this worker's; raises OSError."""
        replace_file(self.folder / CLAIM, partial(_write, self.token), lasting=False)

    def stake_remote(self) -> None:
        """The same for the object store."""
        assert self.remote
        self.remote.write(CLAIM, self.token.encode())

    def check(self) -> None:
        """Raises SupersededError where the folder is another worker's by now, or gone with the trial's end."""
        try:
            found = (self.folder / CLAIM).read_text(encoding="utf-8")
        except FileNotFoundError:
            found = "nobody"
        _compare(found, self.token)

    def check_remote(self) -> None:
        """The same for the object store. Raises UserError where it cannot be asked."""
        assert self.remote
        _compare(self.remote.read(CLAIM).decode() if self.remote.has(CLAIM) else "nobody", self.token)


def mark(study: Path) -> str:
    """Leaves a new mark in a study's directory, by which workers know that they see the same; raises OSError."""
    token = uuid.uuid4().hex
    replace_file(study / MARK, partial(_write, token))
    return token


def check_mark(study: Path, token: str) -> None:
    """Raises UserError where this node does not see the study's directory, or sees an old copy of it."""
    try:
        found = (study / MARK).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        found = ""
    if found != token:
        raise UserError(
            f"{study} is not the study's directory there. --storage must lie on a disk that all nodes share, or be an "
            f"address such as s3://bucket/prefix"
        )


def _compare(found: str, mine: str) -> None:
    if found != mine:
        raise SupersededError(f"the trial belongs to worker {found} by now")


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
