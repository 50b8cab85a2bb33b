import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.corpora import importer, journal, store
from trainables.corpora.audio import samples_digest
from trainables.corpora.journal import Entry, Journal
from trainables.corpora.store import disk_needed, find_store, load_store, open_store
from trainables.errors import UserError

ROOT = Path(__file__).parents[3]


def opened(corpus: Any, **options: Any) -> store.Store:
    return open_store("nsynth", corpus if isinstance(corpus, Path) else corpus.root, **options)


def contents(found: store.Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in found.root.iterdir()}


def test_too_small_a_disk_is_noticed_before_writing(
    corpus: Any, monkeypatch: pytest.MonkeyPatch, count_decodes: Callable[[], list[int]]
) -> None:
    needed = disk_needed("nsynth", corpus.root)
    assert needed > 80 * 800
    monkeypatch.setattr(store, "free_bytes", lambda folder: needed - 1)
    decoded = count_decodes()
    with pytest.raises(UserError, match=r"needs 1\.2 MB on the disk of .*, which has 1\.2 MB left"):
        opened(corpus)
    assert decoded == []
    monkeypatch.setattr(store, "free_bytes", lambda folder: needed)
    assert len(opened(corpus).clips) == 80


def test_a_disk_that_fills_up_keeps_the_work(
    make_corpus: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count_decodes: Callable[[], list[int]],
) -> None:
    corpus = make_corpus(train=300)
    real, written = journal.write_all, []

    def full_after_six(file: Any, data: memoryview) -> None:
        written.append(len(data))
        if len(written) > 6:
            file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, data)

    with monkeypatch.context() as patched:
        patched.setattr(journal, "write_all", full_after_six)
        with pytest.raises(UserError, match=r"is full\. Free .* the next import goes on where this one stopped"):
            opened(corpus)
    decoded = count_decodes()
    resumed = opened(corpus)
    assert len(decoded) == 340 - 192  # three pairs of writes, for 64 notes each, came through
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "other"))
    assert contents(opened(corpus)) == contents(resumed)


KILLED = """
import os, signal, sys
from pathlib import Path
from trainables.corpora.store import open_store

def die(stage, done, total):
    if done >= total * float(sys.argv[2]) > 0:
        os.kill(os.getpid(), signal.SIGKILL)

open_store("nsynth", Path(sys.argv[1]), progress=die)
"""


def run(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("archived", [False, True])
def test_an_import_killed_on_the_way_ends_as_if_it_had_not_been(
    make_corpus: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    archived: bool,
    count_decodes: Callable[[], list[int]],
) -> None:
    corpus = make_corpus(train=300)
    corpus.audio("train", corpus.names("train")[5]).write_bytes(b"")
    path = corpus.archived(tmp_path / "archives") if archived else corpus.root
    with run(KILLED, str(path), "0.6") as process:
        assert process.wait() == -signal.SIGKILL
    (partial,) = (tmp_path / "cache" / "stores").glob("*.partial")
    done = len((partial / "journal.jsonl").read_text().splitlines())
    assert 64 <= done < 340
    assert find_store("nsynth", path) is None
    decoded = count_decodes()
    resumed = opened(path)
    assert len(decoded) == 340 - done
    assert not partial.exists()
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "other"))
    assert contents(opened(path)) == contents(resumed)


SHARED = """
import sys, time
from pathlib import Path
from trainables.corpora import importer
from trainables.corpora.store import open_store

corpus, sign = Path(sys.argv[1]), Path(sys.argv[2])
real, decodes = importer.decode, []
importer.decode = lambda data, **options: decodes.append(1) or real(data, **options)

def meet(stage, done, total):
    if stage == "waiting for another process":
        sign.touch()
    deadline = time.monotonic() + 30
    while not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.01)

store = open_store("nsynth", corpus, progress=meet)
print(len(decodes), store.root, len(store.clips))
"""


def test_two_processes_at_once_decode_once(corpus: Any, tmp_path: Path) -> None:
    sign = tmp_path / "somebody waits"
    with run(SHARED, str(corpus.root), str(sign)) as one, run(SHARED, str(corpus.root), str(sign)) as two:
        told = sorted(process.communicate(timeout=60)[0].split() for process in (one, two))
    assert sign.exists()
    root = str(opened(corpus).root)
    assert told == [["0", root, "80"], ["80", root, "80"]]


def test_threads_may_open_one_corpus_at_once(corpus: Any, count_decodes: Callable[[], list[int]]) -> None:
    decoded = count_decodes()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(opened(corpus).digest)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1 and len(decoded) == 80


def test_a_corpus_must_not_change_while_it_is_imported(corpus: Any, tmp_path: Path) -> None:
    def disturb(stage: str, done: int, total: int) -> None:
        os.utime(corpus.audio("train", corpus.names("train")[0]), ns=(5, 5))

    with pytest.raises(UserError, match="must not change while it is imported"):
        opened(corpus, progress=disturb)
    assert find_store("nsynth", corpus.root) is None
    assert len(opened(corpus).clips) == 80


@pytest.mark.parametrize("name", ["samples.i16", "clips.parquet", "quarantine.csv", "store.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_store_is_replaced(
    corpus: Any, name: str, damage: str, count_decodes: Callable[[], list[int]]
) -> None:
    found = opened(corpus)
    whole = contents(found)
    path = found.root / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-2])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"[]" + path.read_bytes())
    if (name, damage) == ("store.json", "cut"):
        path.write_bytes(path.read_bytes()[:40])
    assert find_store("nsynth", corpus.root) is None
    with pytest.raises(UserError, match="must be a whole store"):
        load_store(found.root)
    decoded = count_decodes()
    assert contents(opened(corpus)) == whole
    assert len(decoded) == 80


def written(folder: Path, count: int) -> tuple[Path, Path]:
    samples = folder / "store" / "samples.i16"
    with Journal(folder, samples) as record:
        for i in range(count):
            data = np.full(10, i + 1, np.int16)
            record.append(Entry("train", f"n{i}", "p", record.offset, 10, samples_digest(data)), data)
        record.append(Entry("train", "bad", "p", record.offset, reason="silent"))
        record.sync()
    return folder / "journal.jsonl", samples


@pytest.mark.parametrize("lost", range(0, 300, 7))
def test_a_torn_journal_is_cut_back_to_whole_lines(tmp_path: Path, lost: int) -> None:
    lines, samples = written(tmp_path, 5)
    whole = lines.read_bytes()
    os.truncate(lines, len(whole) - lost)
    left = whole[: len(whole) - lost].count(b"\n")
    with Journal(tmp_path, samples) as record:
        assert (record.entries, record.offset) == (left, 10 * min(left, 5))
    assert lines.read_bytes() == b"".join(whole.splitlines(keepends=True)[:left])
    assert samples.stat().st_size == 20 * min(left, 5)


def test_samples_that_a_power_cut_took_are_noticed(tmp_path: Path) -> None:
    lines, samples = written(tmp_path, 5)
    os.truncate(samples, 71)  # within a sample
    with Journal(tmp_path, samples) as record:
        assert (record.entries, record.offset) == (3, 30)
    assert samples.stat().st_size == 60
    shutil.rmtree(tmp_path / "store")
    lines.unlink()
    written(tmp_path, 5)
    with samples.open("r+b") as file:  # as long as promised, but zeros
        file.seek(40)
        file.write(bytes(60))
    with Journal(tmp_path, samples) as record:
        assert (record.entries, record.offset) == (2, 20)
    assert [json.loads(line)[1] for line in lines.read_text().splitlines()] == ["n0", "n1"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_cores_are_those_of_the_container(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(importer, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert importer.cores() == expected
