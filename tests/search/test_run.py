"""How the command begins: what is needed longest comes first, and only where it is needed."""

import contextlib
import signal
import sys
from collections.abc import Iterator

import pytest

from search import run


@pytest.mark.parametrize(
    ("arguments", "begun"),
    [
        ([], True),
        (["--space", "lstm"], True),
        (["--dry-run", "--space", "lstm"], False),
        (["--help"], False),
        (["--address", "auto"], False),
        (["--address=host:6379"], False),
    ],
)
def test_workers_origin_is_begun_before_anything_else(
    arguments: list[str], begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It imports Torch meanwhile. Where workers are elsewhere, or none will be, it would be in the way."""
    happened = []

    @contextlib.contextmanager
    def server() -> Iterator[None]:
        happened.append("begun")
        yield
        happened.append("ended")

    def command() -> int:
        happened.append("command")
        return 7

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run.forks, "server", server)
    monkeypatch.setattr(run, "_run", command)
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    try:
        with pytest.raises(SystemExit) as ended:
            run.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 7
    assert happened == (["begun", "command", "ended"] if begun else ["command"])
