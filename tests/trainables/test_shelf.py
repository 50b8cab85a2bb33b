"""Prepared inputs on the disk: computed once, mapped by all, and nothing depends on the files."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor

from trainables import files, shelf

MB = 250_000
"""Numbers in a megabyte."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path))
    return tmp_path / "prepared"


def numbers(n: int = 4) -> Callable[[], Tensor]:
    return lambda: torch.arange(n, dtype=torch.float32)


def never() -> Tensor:
    raise AssertionError("computed again")


def file_of(folder: Path, *depends_on: bytes) -> Path:
    return folder / f"{shelf._key(depends_on)}.npy"


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_what_one_computed_the_others_map(folder: Path, dtype: torch.dtype) -> None:
    made = torch.arange(24).reshape(2, 3, 4).to(dtype)
    for make in (lambda: made, never):
        found = shelf.shared([b"a"], make)
        assert found.dtype == dtype and torch.equal(found, made)
        assert file_of(folder, b"a").name in Path("/proc/self/maps").read_text()
        del found


def test_writing_to_it_changes_nothing_for_others(folder: Path) -> None:
    shelf.shared([b"a"], numbers()).zero_()
    assert torch.equal(shelf.shared([b"a"], never), numbers()())


def test_other_inputs_are_computed(folder: Path) -> None:
    assert len(shelf.shared([b"ab", b"c"], numbers(3))) == 3
    assert len(shelf.shared([b"a", b"bc"], numbers(5))) == 5


def test_another_state_of_the_code_or_torch_computes_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {shelf._code()}
    assert states == {shelf._CODE}
    changed = Path(__file__).parents[2] / "trainables" / "features" / "waveform.py"
    read = Path.read_bytes
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == changed))
        states.add(shelf._code())
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "version", lambda name: version(name) + ".1" * (name == "soxr"))
        states.add(shelf._code())
    assert len(states) == 3
    for n, state in enumerate(states):
        monkeypatch.setattr(shelf, "_CODE", state)
        assert len(shelf.shared([b"a"], numbers(3 + n))) == 3 + n


def test_the_code_is_imported_by_the_time_it_is_looked_at() -> None:
    """Otherwise a worker might prepare inputs with a later state of it."""
    program = (
        "import pathlib, sys; read = pathlib.Path.read_bytes; seen = []\n"
        "pathlib.Path.read_bytes = lambda path: (seen.append(str(path)), read(path))[1]\n"
        "import trainables.shelf, trainables.data\n"
        "print(*(path for path in seen if path.endswith('.py')))\n"
        "print(*(module.__file__ for module in list(sys.modules.values()) if getattr(module, '__file__', None)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    looked_at, imported = (line.split() for line in done.stdout.splitlines())
    assert {Path(path).name for path in looked_at} == {"data.py", "store.py", "waveform.py", "picture.py"}
    assert set(looked_at) <= set(imported)


@pytest.mark.parametrize("content", [b"", b"no array", None, "((4,)"])
def test_a_damaged_file_is_replaced(folder: Path, content: bytes | str | None) -> None:
    shelf.shared([b"a"], numbers())
    path = file_of(folder, b"a")
    whole = path.read_bytes()
    path.unlink()
    if isinstance(content, str):
        content = whole.replace(b"(4,), ", f"{content} ".encode())
        assert len(content) == len(whole)
    path.write_bytes(whole[:-1] if content is None else content)
    assert torch.equal(shelf.shared([b"a"], numbers()), numbers()())
    assert path.read_bytes() == whole


def test_a_file_that_holds_objects_is_not_trusted(folder: Path) -> None:
    shelf.shared([b"a"], numbers())
    np.save(file_of(folder, b"a"), np.array([print], dtype=object), allow_pickle=True)
    assert torch.equal(shelf.shared([b"a"], numbers()), numbers()())


def test_without_a_place_for_files_everyone_computes(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_text("a file where the folder should be")
    for _ in range(2):
        assert torch.equal(shelf.shared([b"a"], numbers()), numbers()())
    assert [record.message for record in caplog.records] == [
        f"Prepared inputs are not shared: File exists ({folder})"
    ] * 2


def test_no_examples_are_no_reason_to_fail(folder: Path) -> None:
    for _ in range(2):
        assert shelf.shared([b"a"], lambda: torch.empty(0, 4)).shape == (0, 4)


def unused(path: Path, more: int = 0) -> None:
    """Makes it a file that nobody asked for since long, or `more` seconds longer than that."""
    os.utime(path, (1e9 - more, 1e9 - more))


def test_what_was_asked_for_lately_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the two halves of what is too large would push each other out again and again."""
    monkeypatch.setattr(files, "PREPARED_BYTES", 1_500_000)
    shelf.shared([b"a"], numbers(MB))
    assert len(shelf.shared([b"b"], numbers(MB))) == MB
    shelf.shared([b"a"], never)
    unused(file_of(folder, b"a"))
    shelf.shared([b"b"], numbers(MB))
    assert list(folder.glob("*.npy")) == [file_of(folder, b"b")]


def test_what_is_odd_in_the_folder_is_no_hindrance(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PREPARED_BYTES", 3_500_000)
    shelf.shared([b"a"], numbers(MB))
    (folder / "nowhere").symlink_to("gone")
    (folder / "folder").mkdir()
    half = folder / f".{file_of(folder, b'x').name}.0123"
    half.write_bytes(bytes(4 * MB))
    unused(folder / "folder", 1)
    unused(half)
    lstat = Path.lstat

    def gone_meanwhile(path: Path) -> os.stat_result:
        if path == half and not gone:
            gone.append(path)
            raise FileNotFoundError(path)
        return lstat(path)

    gone: list[Path] = []
    monkeypatch.setattr(Path, "lstat", gone_meanwhile)
    shelf.shared([b"b"], numbers(MB))
    assert gone
    unused(half)
    shelf.shared([b"c"], numbers(MB))
    assert not half.exists(), "what was begun and never ended goes too"
    for name in (b"a", b"b", b"c"):
        shelf.shared([name], never)


def test_who_asks_while_another_computes_waits_for_it(folder: Path) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slowly() -> Tensor:
        began.set()
        assert go_on.wait(30)
        return numbers()()

    found: list[Tensor] = []
    first = threading.Thread(target=lambda: found.append(shelf.shared([b"a"], slowly)))
    second = threading.Thread(target=lambda: found.append(shelf.shared([b"a"], never)))
    first.start()
    assert began.wait(30)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    go_on.set()
    for thread in (first, second):
        thread.join(30)
    assert len(found) == 2 and torch.equal(*found)


def test_where_nothing_can_be_locked_everyone_computes(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        assert torch.equal(shelf.shared([b"a"], numbers()), numbers()())
    assert caplog.text.count("Prepared inputs are not shared: Function not implemented") == 2
    assert not list(folder.glob("*.npy"))


def test_a_lock_that_is_held_for_ever_is_not_waited_for(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "_WAIT_SECONDS", 0.05)
    folder.mkdir()
    for name, made in ((f".making-{file_of(folder, b'a').name[0]}.lock", b"a"), (".writing.lock", b"b")):
        with FileLock(folder / name):
            assert torch.equal(shelf.shared([made], numbers()), numbers()())
    assert caplog.text.count("Prepared inputs are not shared: The file lock") == 2


def test_those_that_were_not_asked_for_the_longest_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PREPARED_BYTES", 3_500_000)
    kept = {name: shelf.shared([name], numbers(MB)) for name in (b"a", b"b", b"c")}
    for age, name in enumerate((b"c", b"b", b"a")):
        unused(file_of(folder, name), age)
    shelf.shared([b"a"], never)
    shelf.shared([b"d"], numbers(MB))
    assert {name for name in (b"a", b"b", b"c", b"d") if file_of(folder, name).exists()} == {b"a", b"c", b"d"}
    assert torch.equal(kept[b"b"], numbers(MB)()), "whoever has it keeps it"


def test_what_is_too_large_pushes_nothing_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PREPARED_BYTES", 2_500_000)
    shelf.shared([b"a"], numbers(MB))
    assert len(shelf.shared([b"b"], numbers(3 * MB))) == 3 * MB
    assert list(folder.glob("*.npy")) == [file_of(folder, b"a")]
    assert not list(folder.glob(".*.npy*"))


def test_three_quarters_of_a_disk_stay_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shelf.shutil, "disk_usage", lambda path: usage(8_200_000))
    for name in (b"a", b"b", b"c"):
        shelf.shared([name], numbers(MB))
        unused(file_of(folder, name), -ord(name))
    # A quarter of what was free and what is held: 8.2 MB, 9.2 MB, 10.2 MB.
    assert not file_of(folder, b"a").exists() and file_of(folder, b"b").exists() and file_of(folder, b"c").exists()
