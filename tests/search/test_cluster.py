"""Studies carried out by a real Ray: faults of trials and of workers, and what the end leaves behind."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray

import spaces
from search.engine import Engine, State
from search.finish import _score, finish
from search.machines import Machines
from search.records import EPOCHS, TRIALS, Journal, read_rows
from search.slots import Resources
from search.study import StudySpec
from search.tuning import _Link, run_trials
from search.worker import TrialWorker
from spaces.domains import Space
from tests import faulty
from tests.faults import family
from trainables import corpora, retrain
from trainables.config import DataConfig
from trainables.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_ray"), pytest.mark.filterwarnings("ignore")]

LIMIT_SECONDS = 240
ONE = Resources(cpus_per_trial=1, gpus_per_trial=0.0, concurrency=1)


@pytest.fixture
def spec(tiny_corpus: Path, make_spec: Callable[..., StudySpec]) -> Callable[..., StudySpec]:
    """A study of the faulty network on the tiny corpus."""
    name = f"nsynth:{tiny_corpus}"
    digest = corpora.open_corpus(name).digest
    data = DataConfig(corpus=name, digest=digest, task="family", keep_synth_lead=False, split="official", split_seed=0)

    def make(space: Space, **changes: Any) -> StudySpec:
        return make_spec(space=space, data=data, **{"trials": 4, "max_epochs": 3, **changes})

    return make


def run(spec: StudySpec, directory: Path, resources: Resources = ONE) -> Engine:
    engine = Engine(spec, Journal(directory))
    run_trials(engine, resources, lambda: False)
    return engine


def rows(directory: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one file without what differs from run to run: the clock, memory."""
    volatile = ("seq", "time", "epoch_seconds", "memory_bytes")
    return [{k: v for k, v in row.items() if k not in volatile} for row in read_rows(directory / name)]


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    """A model's record without the time that scoring took."""
    return {key: value for key, value in record.items() if key != "prediction_ms"}


def test_equal_seeds_and_one_worker_give_equal_studies(tmp_path: Path, spec: Callable[..., StudySpec]) -> None:
    study = spec(faulty.space(("none",)), trials=5)
    for name in ("first", "second"):
        run(study, tmp_path / name)
    for file in (TRIALS, EPOCHS):
        assert rows(tmp_path / "first", file) == rows(tmp_path / "second", file)
    assert len(rows(tmp_path / "first", TRIALS)) == 10


def test_two_workers_end_every_trial(tmp_path: Path, spec: Callable[..., StudySpec]) -> None:
    engine = run(spec(faulty.space(("none",)), trials=8), tmp_path, dataclasses.replace(ONE, concurrency=2))
    assert len(engine.trials) == 8
    assert {trial.state for trial in engine.trials} <= {State.COMPLETE, State.PRUNED}


def test_a_trial_that_diverges_or_raises_fails_alone(tmp_path: Path, spec: Callable[..., StudySpec]) -> None:
    study = spec(faulty.space(("none", "nan", "error")), trials=9, grace_epochs=3)
    engine = run(study, tmp_path)
    by_fault = {fault: [t for t in engine.trials if t.params["fault"] == fault] for fault in ("none", "nan", "error")}
    assert all(by_fault.values()), "every fault occurs among these trials"
    assert {(t.state, t.epoch) for t in by_fault["none"]} == {(State.COMPLETE, 3)}
    assert {(t.state, t.epoch) for t in by_fault["nan"]} == {(State.FAILED, 2)}
    assert all((t.reason or "").endswith("became nan in epoch 2") for t in by_fault["nan"])
    assert {(t.state, t.reason) for t in by_fault["error"]} == {(State.FAILED, "ValueError: the network does not like")}


def test_a_killed_worker_is_replaced_and_nothing_is_done_twice(tmp_path: Path, spec: Callable[..., StudySpec]) -> None:
    """kill -9 of the worker in the second epoch of the first trial."""
    run(spec(faulty.space(("kill",), tmp_path / "marker"), trials=3), tmp_path / "killed")
    assert (tmp_path / "marker").exists(), "the worker did kill itself"
    undisturbed = spec(faulty.space(("kill",), tmp_path / "marker"), trials=3)
    run(undisturbed, tmp_path / "whole")
    for file in (TRIALS, EPOCHS):
        assert rows(tmp_path / "killed", file) == rows(tmp_path / "whole", file)


def test_a_worker_that_always_dies_fails_its_trial_only(tmp_path: Path, spec: Callable[..., StudySpec]) -> None:
    engine = run(spec(faulty.space(("kill",)), trials=1), tmp_path)
    assert [(t.state, t.reason) for t in engine.trials] == [(State.FAILED, "its worker process died 4 times")]


def test_a_worker_whose_trial_another_took_up_does_nothing_more(tmp_path: Path, spec: Callable[..., StudySpec]) -> None:
    """As when a machine was cut off, and the call for the next epoch reaches it when its link is mended."""
    engine = Engine(spec(family.space(0.0, tmp_path / "trace"), trials=1), Journal(tmp_path))
    config = _Link(engine, dataclasses.replace(ONE, memory_bytes=10**10), 1, {}).suggest("a")
    config = {**(config or {}), "rungs": (1, 2, 3)}  # each epoch is reported before the next one begins
    first, second = (ray.remote(TrialWorker).remote(config) for _ in range(2))

    def epochs(worker: Any) -> list[int]:
        return [row["epoch"] for row in ray.get(worker.train.remote(), timeout=LIMIT_SECONDS)["reports"]]

    assert epochs(first) == epochs(second) == [1]
    with pytest.raises(ray.exceptions.RayTaskError, match="SupersededError"):
        ray.get(first.train.remote(), timeout=LIMIT_SECONDS)
    assert epochs(second) == [2]
    trace = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    assert [row["epoch"] for row in trace if row["what"] == "begun"] == [1, 2]


def test_a_trial_that_outgrows_its_memory_fails_with_the_numbers(
    tmp_path: Path, spec: Callable[..., StudySpec]
) -> None:
    limited = dataclasses.replace(ONE, memory_bytes=1_500_000_000)
    engine = run(spec(faulty.space(("none", "memory")), trials=5, grace_epochs=3), tmp_path, limited)
    assert {t.params["fault"] for t in engine.trials} == {"none", "memory"}
    for trial in engine.trials:
        if trial.params["fault"] == "none":
            assert trial.state is State.COMPLETE
        else:
            assert trial.state is State.FAILED
            assert "1.5 GB is a trial's share" in (trial.reason or "")


def test_a_network_too_large_for_its_share_is_refused_before_it_is_built(
    tmp_path: Path, spec: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """cnn2d-genre at full size: 201,575,018 weights, with gradients and moments 3.2 GB; training took 6.8 GB."""
    space = spaces.load("cnn2d")
    study = spec(space, only="cnn2d-genre", trials=1)
    limited = dataclasses.replace(ONE, memory_bytes=3_000_000_000)
    engine = run(study, tmp_path, limited)
    assert [trial.state for trial in engine.trials] == [State.FAILED]
    reason = engine.trials[0].reason or ""
    needed, share = (float(number) for number in re.findall(r"([\d.]+) GB", reason))
    assert 7 < needed < 10
    assert share == 3.0
    assert "--cpus-per-trial" in reason
    assert not (tmp_path / "checkpoints" / "0000" / "state.pt").exists()


def test_a_trial_that_cannot_be_saved_stops_the_study_and_not_the_trial(
    tmp_path: Path, spec: Callable[..., StudySpec]
) -> None:
    study = spec(faulty.space(("none",)), trials=2)
    (tmp_path / "checkpoints").write_text("in the way")
    journal = Journal(tmp_path)
    with pytest.raises(UserError, match="must be able to read its data and save its progress"):
        run_trials(Engine(study, journal), ONE, lambda: False)
    journal.close()
    engine = Engine(study, Journal(tmp_path))
    assert [trial.state for trial in engine.trials] == [State.RUNNING]
    (tmp_path / "checkpoints").unlink()
    run_trials(engine, ONE, lambda: False)
    assert [trial.state is State.FAILED for trial in engine.trials] == [False, False]


def test_a_corpus_that_is_gone_stops_the_study_and_not_its_trials(
    tmp_path: Path, spec: Callable[..., StudySpec]
) -> None:
    study = spec(faulty.space(("none",)), trials=2)
    lost = dataclasses.replace(study, data=dataclasses.replace(study.data, corpus=f"nsynth:{tmp_path / 'gone'}"))
    journal = Journal(tmp_path / "study")
    with pytest.raises(UserError, match=r"trial 0 on \d+\.\d+\.\d+\.\d+ could not: .*gone"):
        run_trials(Engine(lost, journal), ONE, lambda: False)
    journal.close()
    engine = run(study, tmp_path / "study")
    assert {trial.state for trial in engine.trials} <= {State.COMPLETE, State.PRUNED}


def test_the_end_leaves_everything_needed_to_use_and_believe_the_winner(
    tmp_path: Path, spec: Callable[..., StudySpec]
) -> None:
    engine = run(spec(faulty.space(("none",)), trials=4), tmp_path)
    found = finish(engine)
    winner = engine.best()[0]
    assert found["best"]["trial"] == winner.number
    assert found["best"]["score"] == winner.score == max(t.score for t in engine.trials if t.state is State.COMPLETE)
    best = tmp_path / "best"
    predictions = pd.read_parquet(best / "predictions.parquet")
    assert set(predictions["split"]) == {"tune", "valid", "test"}
    chances = predictions[[c for c in predictions if c.startswith("p_")]]
    assert list(chances.columns) == ["p_bass", "p_organ", "p_reed"]
    assert ((chances.sum(axis=1) - 1).abs() < 1e-5).all()
    tune = predictions[predictions["split"] == "tune"]
    recalls = (tune["true"] == tune["predicted"]).groupby(tune["true"]).mean()
    assert recalls.mean() == pytest.approx(winner.score), "the stored predictions are those that were chosen by"

    first = (best / "metrics.json").read_bytes()
    assert finish(engine) == found
    assert (best / "metrics.json").read_bytes() == first, "test is scored once"

    for name in ("metrics.json", "model.safetensors"):
        shutil.copy(best / "model.safetensors", tmp_path / "kept")
        (best / name).write_text("") if name == "metrics.json" else (best / name).unlink()
        shutil.rmtree(tmp_path / "checkpoints")
        assert untimed(finish(engine)["best"]) == untimed(found["best"]), f"made again without {name} and checkpoints"
        assert untimed(json.loads((best / "metrics.json").read_bytes())) == untimed(json.loads(first))
        assert (best / "model.safetensors").read_bytes() == (tmp_path / "kept").read_bytes()

    shutil.rmtree(tmp_path / "checkpoints")
    elsewhere = dataclasses.replace(winner, score=0.999)  # as if it had been trained on another kind of machine
    record = _score(engine, elsewhere, tmp_path / "elsewhere")
    assert (record["score"], record["score_again"]) == (0.999, winner.score)

    again = retrain.retrain(best / "config.json", tmp_path / "again")
    assert again == json.loads(first)["splits"], "the winner trained from its config.json alone gives the same scores"


def test_resources_that_fit_no_node_are_refused_with_numbers() -> None:
    assert Machines(1, None, None).resources().concurrency == 2
    assert Machines(2, None, None).resources().concurrency == 1
    assert Machines(1, None, 1).resources().concurrency == 1
    with pytest.raises(UserError, match=r"--gpus-per-trial is 0\.5 and the node with the most GPUs has 0"):
        Machines(1, 0.5, None).resources()
    with pytest.raises(UserError, match="--cpus-per-trial is 3 and the node with the most cores has 2"):
        Machines(3, None, None).resources()
