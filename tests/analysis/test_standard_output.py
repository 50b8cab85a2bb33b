"""Results on standard output: full, closed, broken off, or a terminal that a name must not control."""

import io
import subprocess
import sys
from pathlib import Path

import click
import pytest

from analysis import predict as module
from tests.conftest import ROOT


class Full(io.TextIOWrapper):
    """Standard output that fails, on a terminal or not."""

    def __init__(self, error: OSError | None = None, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.error, self.terminal = error, terminal

    def isatty(self) -> bool:
        return self.terminal

    def flush(self) -> None:
        if self.error:
            raise self.error
        super().flush()


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (Full(OSError(28, "No space left on device")), "Error: Standard output cannot be written (No space left on"),
        (None, "Error: A result needs somewhere to go, but standard output is closed. Redirect"),
        (Full(BrokenPipeError()), "1"),
    ],
)
def test_an_output_that_cannot_be_written_is_said(
    stream: Full | None, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        module.put("text")

    monkeypatch.setattr(sys, "argv", ["predict"])
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as caught:
        module.run(command, "analysis.predict")
    monkeypatch.undo()
    assert str(caught.value.code).startswith(words)
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    """Of a file that must not grow, where Python itself would complain once more at the end."""
    code = (
        "import resource, sys, analysis.predict as p\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "sys.argv = ['x', *sys.argv[1:]]\n"
        "p.run(p.click.command()(lambda: p.put('x')), 'x') if len(sys.argv) == 1 else p.main()\n"
    )
    for arguments in ((), ("--help",)):
        with (tmp_path / "out").open("w") as out:
            command = [sys.executable, "-c", code, *arguments]
            found = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True)
        assert found.returncode == 1
        assert len(found.stderr.splitlines()) == 1 and found.stderr.startswith("Error: ")
        assert "File too large" in found.stderr


def test_a_terminal_is_not_controlled_and_files_are_exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "file,predicted\na\x1b[2J\x9b\r\x7f.wav,é\n"
    shown = {}
    for terminal in (True, False):
        stream = Full(terminal=terminal)
        monkeypatch.setattr(sys, "stdout", stream)
        module.put(text)
        monkeypatch.undo()
        shown[terminal] = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert shown == {True: "file,predicted\na\\x1b[2J\\x9b\\r\\x7f.wav,é\n", False: text}
    module.write_text(tmp_path / "a.csv", text)
    assert (tmp_path / "a.csv").read_bytes().decode() == text
