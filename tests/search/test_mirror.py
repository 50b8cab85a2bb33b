"""A study in an object store: a real S3 server, machines that are lost, and nothing lost with them."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import fs

from analysis import load_study
from search import mirror as mirrors
from search import places
from search.mirror import JOURNALS, Mirror, address_of, mirror_of, working_copies
from search.options import parse
from search.records import EPOCHS, TRIALS, Journal, read_journal, read_rows
from tests.search.test_main import LIMIT_SECONDS, ROOT, rows
from trainables.errors import UserError
from trainables.folder import open_folder

pytestmark = pytest.mark.slow


@pytest.fixture
def address(s3: fs.S3FileSystem, request: pytest.FixtureRequest) -> str:
    return f"s3://studies/{request.node.name}"


@pytest.fixture
def place(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "here"))
    return working_copies(address) / "study"


def another_machine(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "there"))
    found = mirror_of(working_copies(address) / "study")
    assert found is not None
    found.local.mkdir(exist_ok=True)
    return found


def opened(place: Path) -> tuple[Journal, Mirror]:
    mirror = mirror_of(place)
    assert mirror is not None
    return Journal(place, mirror=mirror), mirror


def write(journal: Journal, trials: range) -> None:
    for trial in trials:
        journal.started(trial, params={"x": 0.5}, baseline=None, origin="sampled", seed=trial)
        journal.epoch(trial, {"epoch": 1, "score": 0.5}, None, "continue")


def test_each_row_is_there_before_it_counts_and_is_gathered_in_the_end(
    place: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, mirror = opened(place)
    write(journal, range(3))
    assert (mirror.remote / "rows").files() == [f"{n:08d}.json" for n in range(6)]
    other = another_machine(address, tmp_path, monkeypatch)
    other.fetch_study()  # as if the first machine had died here
    assert read_journal(other.local) == journal.rows
    mirror.gather()
    assert (mirror.remote / "rows").files() == []
    assert mirror.remote.read(EPOCHS) == (place / EPOCHS).read_bytes()
    shutil.rmtree(other.local)
    other.local.mkdir()
    other.fetch_study()
    assert [(other.local / name).read_bytes() for name in JOURNALS] == [
        (place / name).read_bytes() for name in JOURNALS
    ]


def test_rows_are_gathered_on_the_way(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "_ROWS_KEPT_APART", 4)
    journal, mirror = opened(place)
    write(journal, range(5))
    assert (mirror.remote / "rows").files() == ["00000008.json", "00000009.json"]
    assert len(mirror.remote.read(TRIALS).splitlines()) == 4


def test_a_row_that_did_not_get_there_is_brought_there(place: Path) -> None:
    journal, mirror = opened(place)
    write(journal, range(2))
    (mirror.remote / "rows").remove("00000003.json")
    journal.close()
    mirror.fetch_study()
    assert (mirror.remote / "rows").has("00000003.json")


def test_a_row_that_is_no_json_is_named(place: Path) -> None:
    mirror = mirror_of(place)
    assert mirror
    mirror._put("rows/00000000.json", b"{")
    with pytest.raises(UserError, match=r"must be JSON, but s3://.*rows/00000000\.json has one that is not"):
        list(mirror._rows_there())


def test_a_model_that_got_there_in_part_is_not_taken_for_the_one_before(
    place: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted between any two files, `metrics.json` there is that of the model before, or of all that is there."""
    mirror = mirror_of(place)
    assert mirror
    names = ("config.json", "metrics.json", "model.safetensors", "predictions.parquet")

    def model(content: str) -> None:
        (place / "best").mkdir(parents=True, exist_ok=True)
        for name in names:
            (place / "best" / name).write_text(content)

    model("before")
    mirror.push_all()
    model("now")
    put = mirror._put

    def lost_after(count: int) -> None:
        left = iter(range(count))

        def put_some(name: str, content: bytes) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            put(name, content)

        monkeypatch.setattr(mirror, "_put", put_some)

    for count in range(len(names)):
        lost_after(count)
        with pytest.raises(KeyboardInterrupt):
            mirror.push_all()
        assert (mirror.remote / "best").read("metrics.json") == b"before"
    lost_after(len(names))
    mirror.push_all()
    assert {(mirror.remote / "best").read(name) for name in names} == {b"now"}


def test_two_histories_of_one_study_are_refused(place: Path) -> None:
    journal, mirror = opened(place)
    write(journal, range(1))
    (mirror.remote / "rows").write("00000001.json", b'{"seq": 1, "event": "epoch", "time": 0}')
    with pytest.raises(UserError, match="one history"):
        mirror.fetch_study()


def test_one_process_at_a_time_until_it_falls_silent(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, mirror = opened(place)
    mirror.remote.write("lock.json", json.dumps({"owner": "elsewhere 1", "time": time.time() - 100}).encode())
    with pytest.raises(UserError, match="elsewhere 1 was running"):
        mirror.lock()
    mirror.remote.write("lock.json", json.dumps({"owner": "elsewhere 1", "time": time.time() - 400}).encode())
    mirror.lock()
    mirror.unlock()
    assert not mirror.remote.has("lock.json")


def test_who_was_cut_off_finds_that_another_has_the_study_and_changes_nothing(
    place: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "_READ_BACK_SECONDS", 0.0)
    journal, first = opened(place)
    first.lock()
    write(journal, range(1))
    lock = json.loads(first.remote.read("lock.json"))
    first.remote.write("lock.json", json.dumps({**lock, "owner": "here 1", "time": time.time() - 400}).encode())
    other = another_machine(address, tmp_path, monkeypatch)
    other.lock()
    other.fetch_study()
    others = Journal(other.local, mirror=other)
    others.ended(0, "complete", None)
    for step in (first.gather, lambda: journal.started(1, params={}, baseline=None, origin="sampled", seed=1)):
        with pytest.raises(UserError, match="another took"):
            step()
    first.abandon()
    assert not other.remote.has(TRIALS), "nothing was put there"
    assert other.remote.has("lock.json"), "it is not the first one's to take away"
    assert (other.remote / "rows").files() == [f"{n:08d}.json" for n in range(3)]
    assert json.loads((other.remote / "rows").read("00000002.json"))["event"] == "ended"
    other.unlock()


def test_of_two_that_start_at_once_one_has_the_study(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, mirror = opened(place)
    late = json.dumps({"owner": "elsewhere 1", "token": "another", "time": time.time()}).encode()
    monkeypatch.setattr(mirrors.time, "sleep", lambda seconds: mirror.remote.write("lock.json", late))
    with pytest.raises(UserError, match="another took"):
        mirror.lock()
    assert mirror.remote.read("lock.json") == late


@pytest.mark.parametrize("held", [b"[", b"[]", b'{"time": "noon"}', b'{"owner": "elsewhere 1", "time": 1e12}'])
def test_a_lock_that_makes_no_sense_holds_nobody_up(held: bytes, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "_READ_BACK_SECONDS", 0.0)
    _, mirror = opened(place)
    mirror.remote.write("lock.json", held)
    mirror.lock()
    mirror.unlock()


def test_the_newest_weights_are_scored(place: Path) -> None:
    """This machine's may be from before the trial went on elsewhere."""
    journal, mirror = opened(place)
    folder = journal.folder(0)
    folder.mkdir(parents=True)
    (folder / "best.safetensors").write_bytes(b"old")
    (mirror.remote / "checkpoints" / "0000").write("best.safetensors", b"new")
    mirror.fetch_weights(folder)
    assert (folder / "best.safetensors").read_bytes() == b"new"


def test_a_copy_of_a_study_that_ran_is_whole(place: Path, tmp_path: Path) -> None:
    """Its last rows lie apart; a copy made later may still have some that are lines by now."""
    journal, mirror = opened(place)
    write(journal, range(3))
    mirror.push(TRIALS)
    copy = tmp_path / "copy"
    fs.copy_files(mirror.remote.path, str(copy), source_filesystem=mirror.remote.filesystem)
    assert len(read_rows(copy / TRIALS)) == 3
    assert not (copy / EPOCHS).exists()
    assert read_journal(journal.directory) == Journal(copy).rows
    assert not (copy / "rows").exists()
    assert read_journal(journal.directory) == Journal(copy).rows


def test_what_lies_there_and_is_no_study_is_left_alone(s3: fs.S3FileSystem, place: Path) -> None:
    with s3.open_output_stream("studies/corpora/nsynth/train.tar.gz") as stream:
        stream.write(b"notes")
    for name in ("nsynth", "train"):
        given = parse(["--storage", "s3://studies/corpora", "--name", name])
        assert given
        if name == "nsynth":
            with pytest.raises(UserError, match=r"exists|holds train.tar.gz"):
                places.directory(given, "mlp", "demo")
    _, mirror = opened(place)
    mirror.remote.write("study.json", b"{}")
    mirror.remote.write("another.txt", b"kept")
    mirror.withdraw()
    assert mirror.remote.files() == ["another.txt"]


def test_a_bucket_that_is_not_there_is_told_at_once(s3: fs.S3FileSystem) -> None:
    given = parse(["--storage", "s3://no-such-bucket/studies"])
    assert given
    with pytest.raises(UserError, match="must name a bucket that is there"):
        places.storage(given)


def test_a_study_from_elsewhere_does_not_say_where_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    study = tmp_path / "studies" / "study"
    study.mkdir(parents=True)
    for folder in (study, study.parent):
        (folder / mirrors.ORIGIN).write_text(f"file://{tmp_path}/victim")
    assert address_of(study) == str(study)
    assert mirror_of(study) is None


def test_a_process_of_this_machine_that_is_no_more_is_not_waited_for(place: Path) -> None:
    """kill -9, then --resume at once; another machine's process, or one that still runs, keeps the study."""
    _, mirror = opened(place)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(timeout=LIMIT_SECONDS)
    here = {"system": mirrors._system(), "time": time.time()}
    for held in (
        {**here, "owner": f"here {ended.pid}", "system": "another"},
        {**here, "owner": f"here {os.getppid()}"},
    ):
        mirror.remote.write("lock.json", json.dumps(held).encode())
        with pytest.raises(UserError, match="was running"):
            mirror.lock()
    mirror.remote.write("lock.json", json.dumps({**here, "owner": f"here {ended.pid}"}).encode())
    mirror.lock()
    mirror.unlock()


def test_a_store_that_is_gone_for_a_while_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, mirror = opened(place)
    words: list[str] = []
    mirror.say = words.append
    real, failures = type(mirror.remote).write, [OSError("no route"), OSError("no route")]

    def failing(self: Any, name: str, content: bytes) -> None:
        if failures:
            raise failures.pop()
        real(self, name, content)

    monkeypatch.setattr(type(mirror.remote), "write", failing)
    monkeypatch.setattr("trainables.folder.time.sleep", lambda seconds: None)
    write(journal, range(1))
    assert len(words) == 1 and "writing the journal failed (no route)" in words[0]
    assert len((mirror.remote / "rows").files()) == 2


def test_addresses_lead_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path))
    for address in ("s3://", "s3://bucket/../other", "s3://bucket/./x"):
        with pytest.raises(UserError):
            open_folder(address)
    names = {working_copies(a) for a in ("s3://b/x", "s3://b-x", "s3://b/x/../y")}
    assert len(names) == 3 and all(path.parent == tmp_path / "studies" for path in names)
    with pytest.raises(AssertionError):
        open_folder(tmp_path) / ".."
    assert address_of(tmp_path) == str(tmp_path)
    assert address_of(working_copies("s3://b/x") / "study" / "mlp") == "s3://b/x/study/mlp"


def test_a_driver_that_dies_is_replaced_on_another_machine(
    address: str, tmp_path: Path, tiny_corpus: Path, cache: Path
) -> None:
    """kill -9 in mid-study; --resume with another cache ends like the study that nobody disturbed, on a disk."""

    def command(storage: str, *more: str) -> list[str]:
        options = ("--space", "lstm", "--data", f"nsynth:{tiny_corpus}", "--no-baselines", "--concurrency", "1")
        small = ("--trials", "4", "--max-epochs", "4", "--grace-epochs", "1", "--reduction-factor", "2")
        return [sys.executable, "search/run.py", *options, *small, "--storage", storage, "--name", "study", *more]

    def environment(name: str) -> dict[str, str]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "stores").symlink_to(cache / "stores")
        return {**os.environ, "ETUDE_CACHE": str(tmp_path / name)}

    how = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": LIMIT_SECONDS, "check": False}
    (cache / "stores").mkdir(exist_ok=True)
    undisturbed = subprocess.run(command(str(tmp_path / "local")), env=environment("local-cache"), **how)
    assert undisturbed.returncode == 0, undisturbed.stderr
    first = subprocess.Popen(command(address), cwd=ROOT, env=environment("first"), stderr=subprocess.PIPE, text=True)
    remote = open_folder(f"{address}/study")
    deadline = time.monotonic() + LIMIT_SECONDS
    while len((remote / "rows").files()) < 6:
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline, "the study does not get on"
        time.sleep(0.05)
    first.kill()
    first.communicate()
    held = remote.read_json("lock.json")
    remote.write("lock.json", json.dumps({**held, "time": held["time"] - 1000}).encode())  # five minutes later
    done = subprocess.run(command(address, "--resume"), env=environment("second"), **how)
    assert done.returncode == 0, done.stderr
    assert f"{address}/study" in done.stdout
    copy = working_copies_of(tmp_path / "second")
    for name in (TRIALS, EPOCHS):
        assert rows(copy / "study", name) == rows(tmp_path / "local" / "study", name)
    there, here = load_study(f"{address}/study"), load_study(tmp_path / "local" / "study")
    pd.testing.assert_frame_equal(there.models[0].predictions, here.models[0].predictions)
    assert (remote / "rows").files() == [] and not remote.has("lock.json")
    assert len(read_rows(copy / "study" / EPOCHS)) == len(there.epochs)
    best = int(there.trials.loc[there.trials["chosen"], "trial"].iloc[0])
    assert f"{best:04d}" in (remote / "checkpoints").folders()
    taken = subprocess.run(command(address), env=environment("third"), **how)
    assert taken.returncode == 1 and "name must be new" in taken.stderr


def working_copies_of(cache: Path) -> Path:
    (found,) = (cache / "studies").iterdir()
    return found
