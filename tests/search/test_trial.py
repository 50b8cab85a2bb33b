"""What a worker does around training, with neither Ray nor Torch's part: what it finds, leaves and puts away."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search import trial
from search.claim import Claim, SupersededError
from search.trial import MemoryWatch
from trainables.files import BEST_WEIGHTS, STATE, write_json

FOUND = {"reason": "out of memory: 9.0 GB used", "session": "this"}


class Watch:
    """In place of `MemoryWatch`."""

    def __init__(self, limit: int) -> None: ...

    def guard(self, claim: Claim, session: str) -> None: ...

    def used(self) -> int:
        return 5


def train(self: trial.Trials, given: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    self._size = SimpleNamespace(trainable_parameters=3)  # type: ignore[assignment]
    yield [{"epoch": 1, "best_epoch": 1}]


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> trial.Trials:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(trial.ray, "get_gpu_ids", list)
    monkeypatch.setattr(trial.ray.util, "get_node_ip_address", lambda: "here")
    monkeypatch.setattr(trial, "MemoryWatch", Watch)
    monkeypatch.setattr(trial.Trials, "_train", train)
    return trial.Trials(memory_bytes=1)


def given(folder: Path, remote: Path | None = None) -> dict[str, Any]:
    return {"folder": str(folder), "remote": str(remote) if remote else None, "mark": "this", "gpus": 1}


def test_the_reason_why_a_worker_ended_itself_counts_in_its_session(trials: trial.Trials, tmp_path: Path) -> None:
    write_json(tmp_path / trial.OBITUARY, FOUND)
    trials.begin(given(tmp_path))
    assert trials.step() == {"lost": FOUND["reason"], "crowded": False}


@pytest.mark.parametrize("found", [FOUND | {"session": "another"}, {"reason": "older"}])
def test_one_that_an_earlier_study_of_the_name_left_does_not(
    found: dict[str, str], trials: trial.Trials, tmp_path: Path
) -> None:
    write_json(tmp_path / trial.OBITUARY, found)
    trials.begin(given(tmp_path))
    assert trials.step()["reports"][0]["epoch"] == 1


@pytest.mark.parametrize(("remote", "taken", "left"), [(True, False, False), (True, True, True), (False, False, True)])
def test_what_an_object_store_has_is_removed_here_unless_another_worker_has_it(
    remote: bool, taken: bool, left: bool, trials: trial.Trials, tmp_path: Path
) -> None:
    """Nobody else would: the search removes what lies on its own disk and in the store."""
    store = tmp_path / "store" if remote else None
    trials.begin(given(tmp_path / "0001", store))
    trials._claim.stake()
    (tmp_path / "0001" / STATE).write_bytes(b"state")
    if taken:
        Claim(tmp_path / "0001", None).stake()
    trials.begin(given(tmp_path / "0002", store))
    assert (tmp_path / "0001" / STATE).exists() == left


def test_files_go_to_the_store_when_they_are_new(
    trials: trial.Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[str] = []
    monkeypatch.setattr(trials, "_put", put.append)
    folder = tmp_path / "0001"
    trials.begin(given(folder, tmp_path / "store"))
    assert trials._put_away() is None and put == [], "nothing is saved yet"
    folder.mkdir()
    for name in (STATE, BEST_WEIGHTS):
        (folder / name).write_bytes(b"1")
    assert trials._put_away() is None and put == [BEST_WEIGHTS, STATE], "weights first: the state speaks of them"
    trials._put_away()
    assert put == [BEST_WEIGHTS, STATE]
    (folder / "new").write_bytes(b"2")
    (folder / "new").replace(folder / STATE)
    trials._put_away()
    assert put == [BEST_WEIGHTS, STATE, STATE]
    trials.begin(given(tmp_path / "0002", tmp_path / "store"))
    assert trials._put_away() is None and len(put) == 3


@pytest.mark.parametrize(("gpus", "reported"), [(1, 0.4), (0.5, None), (2, None)])
def test_what_a_trial_takes_of_a_gpu_is_told_where_nobody_else_is_on_it(
    gpus: float, reported: float | None, trials: trial.Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what Torch took and gave back meanwhile, and what CUDA itself takes."""
    monkeypatch.setattr(trial.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(trial.torch.cuda, "mem_get_info", lambda: (700, 1000))
    monkeypatch.setattr(trial.torch.cuda, "max_memory_reserved", lambda: 350)
    monkeypatch.setattr(trial.torch.cuda, "memory_reserved", lambda: 250)
    trials.begin(given(tmp_path) | {"gpus": gpus})
    assert trials.step()["reports"][0]["gpu_share"] == reported


@pytest.mark.parametrize(
    ("error", "crowded"),
    [
        (trial.torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_a_crowded_gpu_is_told_from_other_errors(
    error: Exception, crowded: bool, trials: trial.Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only then may a larger share help."""

    def fail(self: trial.Trials, given: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        raise error
        yield []

    monkeypatch.setattr(trial.Trials, "_train", fail)
    trials.begin(given(tmp_path))
    found = trials.step()
    assert found["crowded"] is crowded
    assert found["lost"].startswith("out of GPU memory: " if crowded else f"{type(error).__name__}: ")


@pytest.mark.parametrize(("used", "kept", "percent"), [(20, 15, 50), (20, 0, 50), (5, 5, 95), (5, 0, 50)])
def test_a_worker_gives_back_what_it_keeps_before_it_ends_itself(
    used: int, kept: int, percent: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it keeps for the next step may be more than its share, without anything being lost, or wanted by others."""
    said: list[str] = []
    monkeypatch.setattr(trial.heap, "give_back", lambda: said.append("gives back"))
    monkeypatch.setattr(trial.os, "_exit", lambda code: said.append("ends"))
    monkeypatch.setattr(trial.psutil, "virtual_memory", lambda: SimpleNamespace(percent=percent))
    monkeypatch.setattr(MemoryWatch, "used", lambda self: used - kept if said else used)
    monkeypatch.setattr(trial.threading, "Thread", lambda **_: SimpleNamespace(start=lambda: None))
    watch = MemoryWatch(10)
    watch.guard(SimpleNamespace(check=raise_superseded), "this")  # type: ignore[arg-type]

    def stop(seconds: float) -> None:
        raise StopIteration

    monkeypatch.setattr(trial.time, "sleep", stop)
    with pytest.raises(StopIteration):
        watch._run()
    gives = ["gives back"] if used > 10 or percent > 90 else []
    assert said == gives + (["ends"] if used - kept > 10 else [])


def raise_superseded() -> None:
    raise SupersededError


def test_memory_is_tidied_up_before_preparing_and_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What preparing took is of other sizes than what training takes, and would stay beside it."""
    done: list[str] = []

    def train_nothing(*_: object, **__: object) -> Iterator[list[object]]:
        done.append("trained")
        yield from ()

    config = SimpleNamespace(data=None, features=None, threads=1)
    stand_ins = {
        "check_mark": lambda *_: None,
        "resolve": lambda point: config,
        "footprint": lambda *_: SimpleNamespace(process_bytes=0),
        "data": SimpleNamespace(
            choose_device=lambda: SimpleNamespace(type="cpu"),
            release=lambda *_: None,
            load=lambda _: SimpleNamespace(split=SimpleNamespace(classes=("a", "b"))),
            input_shape=lambda *_: (1,),
            trial_data=lambda *_, **__: done.append("prepared"),
        ),
        "heap": SimpleNamespace(keep_freed=lambda: None, tidy=lambda: done.append("tidied")),
        "loop": SimpleNamespace(train_by_save=train_nothing),
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a worker sets it
    monkeypatch.setattr(trial, "MemoryWatch", Watch)
    monkeypatch.setattr(trial.ray, "get_gpu_ids", list)
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(trial, name, stand_in)
    trials = trial.Trials(memory_bytes=1)
    trials.begin(given(tmp_path) | {"point": {}, "study": str(tmp_path), "reported": 0, "rungs": ()})
    assert list(trials._reports) == []
    assert done == ["tidied", "prepared", "tidied", "trained"]
