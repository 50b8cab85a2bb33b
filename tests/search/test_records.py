"""The journal: order, torn lines, one writer, a full disk."""

import errno
import json
import os
from pathlib import Path

import pytest

from search.records import EPOCHS, TRIALS, Journal, elapsed_seconds, read_journal, read_rows
from trainables.errors import UserError


def report(epoch: int) -> dict[str, object]:
    return {"epoch": epoch, "score": 0.5, "failure": None, "ended": False}


def fill(directory: Path) -> list[dict[str, object]]:
    journal = Journal(directory)
    journal.session(trials=2)
    journal.started(0, params={"x": 0.1})
    journal.epoch(0, report(1), 1, "continue")
    journal.started(1, params={"x": 0.2})
    journal.epoch(1, report(1), 1, "stop")
    journal.ended(1, "pruned", None)
    journal.close()
    return journal.rows


def test_rows_come_back_in_the_order_of_writing(tmp_path: Path) -> None:
    rows = fill(tmp_path)
    assert read_journal(tmp_path) == rows
    assert [row["seq"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["event"] for row in rows] == ["session", "started", "epoch", "started", "epoch", "ended"]


@pytest.mark.parametrize("name", [TRIALS, EPOCHS])
def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    path = tmp_path / name
    if name == EPOCHS:  # only the very last line can be torn, and here that is to be an epoch's
        (tmp_path / TRIALS).write_bytes(b"".join((tmp_path / TRIALS).read_bytes().splitlines(True)[:-1]))
    content = path.read_bytes()
    whole = read_rows(path)
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    for length in range(last, len(content)):
        path.write_bytes(content[:length])
        assert read_rows(path) == whole[:-1], "reading leaves it out"
        Journal(tmp_path).close()
        assert path.read_bytes() == content[:last], "writing begins after the last whole line"


def test_numbering_goes_on_after_a_restart(tmp_path: Path) -> None:
    fill(tmp_path)
    journal = Journal(tmp_path)
    journal.ended(0, "failed", "why")
    assert read_journal(tmp_path)[-1]["seq"] == 6
    journal.close()


def test_only_one_process_may_write(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(UserError, match="One process at a time"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_a_row_that_json_cannot_hold_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.epoch(0, {"epoch": 1, "score": float("nan"), "failure": None, "ended": False}, None, "continue")
    assert read_journal(tmp_path) == []
    journal.close()


def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.started(0, params={})
    before = (tmp_path / TRIALS).read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            journal.started(1, params={})
    assert (tmp_path / TRIALS).read_bytes() == before
    journal.started(1, params={})
    assert [row["trial"] for row in read_rows(tmp_path / TRIALS)] == [0, 1]
    assert [row["seq"] for row in read_rows(tmp_path / TRIALS)] == [0, 1]
    journal.close()


def test_rows_come_to_the_disk_in_their_order_and_those_that_decide_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a power cut takes the last rows at most, of epochs between two decisions."""
    journal = Journal(tmp_path)
    done: list[tuple[str, int]] = []

    def sync(descriptor: int) -> None:
        (file,) = (path for path in tmp_path.glob("*.jsonl") if path.stat().st_ino == os.fstat(descriptor).st_ino)
        done.append((file.name, len(read_rows(tmp_path / TRIALS))))

    monkeypatch.setattr(os, "fsync", sync)
    journal.started(0, params={})
    journal.epoch(0, report(1), None, "continue")
    journal.epoch(0, report(2), None, "continue")
    assert done == [(TRIALS, 1)]
    journal.started(1, params={})
    assert done[1:] == [(EPOCHS, 1), (TRIALS, 2)], "the epochs before the row that follows them was written"
    journal.epoch(0, report(3), 3, "continue")
    journal.epoch(1, report(1), None, "fail")
    assert done[3:] == [(EPOCHS, 2), (EPOCHS, 2)]
    journal.ended(1, "failed", None)
    assert done[5:] == [(TRIALS, 3)]
    journal.close()
    journal = Journal(tmp_path)
    journal.session()
    journal.close()
    assert done[6:] == [(EPOCHS, 3), (TRIALS, 4)], "what a killed process left"


def test_listeners_hear_of_rows_after_they_are_written(tmp_path: Path) -> None:
    heard = []
    journal = Journal(tmp_path, lambda row: heard.append((row["event"], len(read_journal(tmp_path)))))
    journal.session()
    journal.started(0, params={})
    assert heard == [("session", 1), ("started", 2)]
    journal.close()


def test_elapsed_time_is_that_of_sessions_without_the_pauses_between() -> None:
    rows = [
        {"event": "session", "time": 100.0},
        {"event": "started", "time": 101.0},
        {"event": "epoch", "time": 110.0},
        {"event": "session", "time": 5000.0},
        {"event": "epoch", "time": 5007.0},
    ]
    assert elapsed_seconds(rows) == 17.0
    assert elapsed_seconds([]) == 0.0


def test_only_live_and_top_trials_keep_files(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for trial in range(5):
        folder = journal.folder(trial)
        folder.mkdir(parents=True)
        (folder / "state.pt").write_text("s")
        if trial != 3:
            (folder / "best.safetensors").write_text("w")
    journal.keep_weights([0, 3], live=[1])
    left = {str(path.relative_to(tmp_path / "checkpoints")) for path in (tmp_path / "checkpoints").rglob("*.*")}
    assert left == {"0000/best.safetensors", "0001/best.safetensors", "0001/state.pt"}
    journal.close()


def test_lines_are_plain_json(tmp_path: Path) -> None:
    fill(tmp_path)
    lines = (tmp_path / EPOCHS).read_text().splitlines()
    assert json.loads(lines[0])["decision"] == "continue"


def test_a_journal_with_rows_missing_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / TRIALS).write_text("")
    with pytest.raises(UserError, match=r"row 0 of .* is missing"):
        Journal(tmp_path)


def test_a_damaged_line_is_named_with_its_file(tmp_path: Path) -> None:
    fill(tmp_path)
    with (tmp_path / EPOCHS).open("ab") as file:
        file.write(b"\0\0\0\n")
    with pytest.raises(UserError, match=rf"{EPOCHS} has one that is not"):
        read_journal(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Name another place with --storage"):
        Journal(tmp_path / "file" / "study")


def test_what_is_no_trial_s_is_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / "checkpoints" / "mywork").mkdir(parents=True)
    journal.keep_weights([], [])
    assert (tmp_path / "checkpoints" / "mywork").exists()
    journal.close()
