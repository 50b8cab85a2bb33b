"""One session of a study: how it is stopped, and what a session that could not go on leaves behind."""

import contextlib
import errno
import io
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from search import session
from search.options import parse
from search.progress import Terminal
from search.records import TRIALS, Journal, read_journal, read_rows
from search.session import Halt, run_session
from search.study import StudySpec
from trainables.errors import UserError
from trainables.files import read_json


class Ended(BaseException):
    """In place of the end of the process."""


class Gone:
    """A console whose reader has gone."""

    is_terminal = False

    def __init__(self) -> None:
        self.file = self

    def show_cursor(self, _: bool) -> None:
        raise BrokenPipeError

    def print(self, _: object) -> None:
        raise BrokenPipeError


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(session.os, "_exit", end)
    return codes


def test_a_second_ctrl_c_ends_the_process_though_nobody_reads(
    make_spec: Callable[..., StudySpec], ends: list[int]
) -> None:
    screen = Terminal(Gone(), Gone())  # type: ignore[arg-type]
    halt, view = Halt(None), session.View(screen, make_spec(), [])
    with halt.on_signals(view, "the command"):
        signal.raise_signal(signal.SIGINT)
        assert halt.interrupted
        assert ends == []
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGINT)
    assert ends == [130]


def test_a_lost_ray_ends_the_process_though_nobody_reads(ends: list[int]) -> None:
    given_up: list[int] = []
    engine = SimpleNamespace(journal=SimpleNamespace(mirror=SimpleNamespace(abandon=lambda: given_up.append(1))))
    with pytest.raises(Ended):
        session._leave(Terminal(Gone(), Gone()), engine, "the command", "Ray is gone.")  # type: ignore[arg-type]
    assert (ends, given_up) == ([2], [1])


def test_a_line_that_interrupts_a_line_stops_nothing() -> None:
    class Writing(Gone):
        def print(self, _: object) -> None:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    Terminal(Writing(), Writing()).say("a sentence")  # type: ignore[arg-type]


@pytest.mark.parametrize("full_at", [0, 1])
def test_what_was_begun_on_a_full_disk_is_there_to_go_on_with(
    full_at: int, tmp_path: Path, make_spec: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a study whose first row, in which its options are, was not written: that is to begin again."""
    directory = tmp_path / "study"
    given = parse(["--space", "lstm"])
    assert given
    rows = iter(range(full_at))

    def append(journal: Journal, name: str, row: dict[str, Any], *, lasting: bool = True) -> None:
        if next(rows, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(journal, name, row, lasting=lasting)

    def study(folder: Path, *_: object) -> None:
        (folder / "study.json").write_text("{}")

    written = Journal._append
    monkeypatch.setattr(Journal, "_append", append)
    monkeypatch.setattr(session, "write_study", study)
    monkeypatch.setattr(session, "_search", lambda given, spec, corpus, engine, *_: engine.journal.started(0))
    screen = Terminal(io.StringIO(), Console(file=io.StringIO()))
    with pytest.raises(UserError, match="go on with --resume" if full_at else "No space left.*and begin again"):
        run_session(given, make_spec(), directory, None, screen)  # type: ignore[arg-type]
    assert directory.exists() == bool(full_at)
    if full_at:
        assert [row["event"] for row in read_journal(directory)] == ["session"]


@pytest.mark.parametrize("error", [UserError("no machine has a GPU"), KeyboardInterrupt()])
def test_an_interrupted_session_says_so_and_a_refused_one_changes_nothing(
    error: BaseException, tmp_path: Path, make_spec: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "study"
    directory.mkdir()
    (directory / "study.json").write_text("{}")
    (directory / "summary.json").write_text('{"state": "finished"}')
    given = parse(["--resume", "--name", "study"])
    assert given

    def search(*_: object) -> None:
        raise error

    monkeypatch.setattr(session, "write_study", lambda *_: None)
    monkeypatch.setattr(session, "_search", search)
    screen = Terminal(io.StringIO(), Console(file=io.StringIO()))
    refused = isinstance(error, UserError)
    with pytest.raises(UserError) if refused else contextlib.nullcontext():
        run_session(given, make_spec(), directory, None, screen)  # type: ignore[arg-type]
    last = read_rows(directory / TRIALS)[-1]
    assert (last["event"], last.get("refused", False)) == ("session ended", refused)
    assert read_json(directory / "summary.json")["state"] == ("finished" if refused else "interrupted")
