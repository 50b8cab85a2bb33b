"""Where results go: never in the place of what they were made of, of a device, or of a link."""

import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainables.errors import UserError
from trainables.outputs import check_output, write_output


def write(file: Path, text: str = "new") -> None:
    write_output(file, lambda path: path.write_text(text))


def test_a_file_is_made_or_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    write(file, "one")
    with file.open() as reader:
        write(file, "two")
        assert reader.read() == "one", "whoever reads it goes on with what was there"
    assert file.read_text() == "two"

    def fail(path: Path) -> None:
        path.write_text("half")
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        write_output(file, fail)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.csv", "two")]


def test_what_a_link_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    target, link, chain = tmp_path / "deep" / "a.csv", tmp_path / "link", tmp_path / "chain"
    link.symlink_to(Path("deep", "a.csv"))
    chain.symlink_to(link)
    for text in ("where nothing is yet", "and again"):
        write(chain, text)
        assert target.read_text() == text
        assert chain.is_symlink() and link.is_symlink()
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["a.csv", "chain", "deep", "link"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for file in (pipe, link):
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(pipe.read_text)
            try:
                write(file, "through")
            finally:
                os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # the reader ends, whatever was written
            assert read.result(timeout=5) == "through"
        assert stat.S_ISFIFO(pipe.lstat().st_mode) and link.is_symlink()


def test_a_socket_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
        with pytest.raises(UserError, match=r"^socket cannot be written \(.+\)\. Name another file\.$"):
            write(Path("socket"))
        assert stat.S_ISSOCK(Path("socket").lstat().st_mode)


def test_no_folder_is_made_or_replaced(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"but {tmp_path / 'no'} is none. Make it first"):
        write(tmp_path / "no" / "a.csv")
    with pytest.raises(UserError, match=r"is a folder\. Name a file in it"):
        write(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "no" / "a.csv")
    with pytest.raises(UserError, match=f"but {tmp_path / 'no'} is none. Make it first"):
        write(tmp_path / "link")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UserError, match="circle cannot be written"):
        write(tmp_path / "circle")
    assert not (tmp_path / "no").exists()


def test_what_a_result_is_made_of_is_kept(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    used, other = tmp_path / "used.wav", tmp_path / "other.wav"
    used.write_bytes(b"sound")
    other.write_bytes(b"sound")
    (tmp_path / "link").symlink_to(used)
    (tmp_path / "way").symlink_to(model)
    os.link(used, tmp_path / "twin")
    for file in (model / "new", tmp_path / "way" / "new", model / "deep" / ".." / "new"):
        with pytest.raises(UserError, match="must not lie among what it is made of"):
            check_output(file, [tmp_path / "way"])
    for name in ("used.wav", "link", "twin", "model/../used.wav"):
        with pytest.raises(UserError, match="must not replace what else is used"):
            check_output(tmp_path / name, [model], [other, used])
    with pytest.raises(UserError, match="must not replace what else is used"):
        check_output(tmp_path / "same", (), [tmp_path / "model" / ".." / "same"])
    check_output(other, [model], [used])
    check_output(tmp_path / "model.csv", [model], [used, tmp_path / "gone"])
