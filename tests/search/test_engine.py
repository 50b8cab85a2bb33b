"""A study as a sequence of events, driven by a loop over made-up learning curves."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.engine import Decision, Engine, State, Trial
from search.records import EPOCHS, TRIALS, Journal
from search.study import StudySpec

Make = Callable[..., StudySpec]


def curve(trial: Trial, epoch: int) -> dict[str, Any]:
    """A report whose score rises towards a height that depends on x; trials with x near 0.5 diverge at epoch 2."""
    x = float(trial.params["x"])
    if 0.45 < x < 0.55 and epoch >= 2:
        return {
            "epoch": epoch,
            "score": trial.score,
            "best_epoch": trial.best_epoch,
            "failure": f"nan in epoch {epoch}",
            "ended": False,
        }
    score = (1 - abs(x - 0.6)) * (1 - math.exp(-epoch / 3))
    return {
        "epoch": epoch,
        "score": score,
        "best_epoch": epoch,
        "tune_balanced_accuracy": score,
        "failure": None,
        "ended": False,
    }


class Killed(Exception):  # noqa: N818 - stands for kill -9
    """The process ends here."""


def drive(engine: Engine) -> None:
    """One worker: one trial after another, each to its end."""
    while trial := engine.next_trial():
        while trial.state is State.RUNNING:
            engine.report(trial.number, curve(trial, trial.epoch + 1))


def content(directory: Path) -> list[dict[str, Any]]:
    """All rows without what differs from run to run by nature: the clock, and who ran when."""
    rows = []
    for name in (TRIALS, EPOCHS):
        for line in (directory / name).read_text().splitlines():
            row = json.loads(line)
            if row["event"] != "session":
                rows.append({key: value for key, value in row.items() if key not in ("seq", "time")})
    return rows


def test_the_first_trials_are_the_published_ones_and_never_stopped(tmp_path: Path, make_spec: Make) -> None:
    engine = Engine(make_spec(with_baselines=True, trials=20), Journal(tmp_path))
    drive(engine)
    first = engine.trials[0]
    assert (first.baseline, first.params) == ("toy-published", {"x": 0.25, "kind": "a"})
    assert first.state is State.COMPLETE
    second = engine.trials[1]
    assert (second.baseline, second.origin, second.params) == (None, "default", {"x": 0.75, "kind": "b", "y": 0.5})
    assert {(trial.baseline, trial.origin) for trial in engine.trials[2:]} == {(None, "sampled")}
    assert any(trial.state is State.PRUNED for trial in engine.trials)


def test_neither_a_recipe_nor_the_default_is_stopped_however_poor(tmp_path: Path, make_spec: Make) -> None:
    engine = Engine(make_spec(with_baselines=True, trials=12), Journal(tmp_path))
    trials = [engine.next_trial() for _ in range(12)]
    origins = ["published", "default"] + ["sampled"] * 10
    assert [trial.origin for trial in trials if trial] == origins
    # The better ones come first, so that these two are the last of all to reach the rung.
    for trial in reversed(trials):
        assert trial
        score = 0.05 * trial.number
        row = {"epoch": 1, "score": score, "best_epoch": 1, "failure": None, "ended": False}
        decision = engine.report(trial.number, row)
        if trial.number < 2:
            assert decision is Decision.CONTINUE, trial.origin
        elif trial.number < 11:
            assert decision is Decision.STOP, trial.number


def test_optuna_knows_every_trial_as_it_ended(tmp_path: Path, make_spec: Make) -> None:
    engine = Engine(make_spec(trials=40), Journal(tmp_path))
    drive(engine)
    named = {State.COMPLETE: TrialState.COMPLETE, State.PRUNED: TrialState.PRUNED, State.FAILED: TrialState.FAIL}
    assert {trial.state for trial in engine.trials} == set(named), "all three ends occur in this study"
    for ours, theirs in zip(engine.trials, engine.optuna_trials, strict=True):
        assert theirs.state is named[ours.state]
        if ours.state is State.PRUNED:
            assert theirs.last_step == ours.epoch < 9
        if ours.state is State.COMPLETE:
            assert theirs.value == ours.score


def test_a_diverged_trial_ends_at_once_and_stays_out_of_the_rungs(tmp_path: Path, make_spec: Make) -> None:
    engine = Engine(make_spec(grace_epochs=2, max_epochs=4, reduction_factor=2), Journal(tmp_path))
    good = engine.next_trial()
    bad = engine.next_trial()
    assert good
    assert bad
    for epoch in (1, 2):
        engine.report(good.number, {"epoch": epoch, "score": 0.3, "best_epoch": epoch, "failure": None, "ended": False})
    engine.report(bad.number, {"epoch": 1, "score": 0.9, "best_epoch": 1, "failure": None, "ended": False})
    decision = engine.report(bad.number, {"epoch": 2, "score": 0.9, "best_epoch": 1, "failure": "nan", "ended": False})
    assert decision is Decision.FAIL
    assert bad.state is State.FAILED
    assert engine.optuna_trials[bad.number].state is TrialState.FAIL
    assert engine._asha.scores == {2: [0.3]}
    row = json.loads((tmp_path / EPOCHS).read_text().splitlines()[-1])
    assert (row["rung"], row["decision"]) == (None, "fail")


def test_the_best_is_chosen_among_trials_at_full_length_and_the_earlier_of_equals(
    tmp_path: Path, make_spec: Make
) -> None:
    engine = Engine(make_spec(trials=4, max_epochs=2, grace_epochs=1, reduction_factor=2), Journal(tmp_path))
    scores = [(0.9, 0.5), (0.5, None), (0.95, 0.5), (0.2, None)]
    for first, last in scores:
        trial = engine.next_trial()
        assert trial
        engine.report(trial.number, {"epoch": 1, "score": first, "best_epoch": 1, "failure": None, "ended": False})
        if last is not None:
            engine.report(trial.number, {"epoch": 2, "score": last, "best_epoch": 1, "failure": None, "ended": False})
    assert [trial.number for trial in engine.best()] == [0, 2]


def test_reports_that_are_known_already_change_nothing(tmp_path: Path, make_spec: Make) -> None:
    engine = Engine(make_spec(), Journal(tmp_path))
    trial = engine.next_trial()
    assert trial
    engine.report(trial.number, curve(trial, 1))
    before = content(tmp_path)
    assert engine.report(trial.number, curve(trial, 1)) is Decision.CONTINUE
    assert content(tmp_path) == before


@pytest.mark.parametrize("with_baselines", [False, True])
def test_killed_after_any_line_a_resumed_study_equals_the_undisturbed_one(
    tmp_path: Path, make_spec: Make, with_baselines: bool
) -> None:
    """One worker; the process dies right after each single line of the journal, in turn."""
    spec = make_spec(with_baselines=with_baselines)
    whole = Journal(tmp_path / "whole")
    drive(Engine(spec, whole))
    expected = content(tmp_path / "whole")
    assert len(whole.rows) > 40
    for lines in range(len(whole.rows)):
        directory = tmp_path / f"killed-{lines}"

        def die(row: dict[str, Any], last: int = lines) -> None:
            if row["seq"] == last:
                raise Killed

        journal = Journal(directory, die)
        with pytest.raises(Killed):
            drive(Engine(spec, journal))
        journal.close()
        resumed = Journal(directory)
        drive(Engine(spec, resumed))
        assert content(directory) == expected, f"killed after line {lines}"
        resumed.close()


def test_unfinished_trials_are_served_first(tmp_path: Path, make_spec: Make) -> None:
    engine = Engine(make_spec(), Journal(tmp_path))
    first, second = engine.next_trial(), engine.next_trial()
    assert first
    assert second
    engine.report(first.number, curve(first, 1))
    engine.journal.close()
    resumed = Engine(make_spec(), Journal(tmp_path))
    queue = [resumed.next_trial() for _ in range(3)]
    assert [(trial.number, trial.epoch) for trial in queue if trial] == [(0, 1), (1, 0), (2, 0)]


def test_more_trials_may_be_asked_for_later(tmp_path: Path, make_spec: Make) -> None:
    journal = Journal(tmp_path)
    drive(Engine(make_spec(trials=5), journal))
    journal.close()
    extended = Engine(make_spec(trials=8), Journal(tmp_path))
    assert extended.to_start == 3
    drive(extended)
    straight = Journal(tmp_path / "straight")
    drive(Engine(make_spec(trials=8), straight))
    assert content(tmp_path) == content(tmp_path / "straight")


def test_losers_leave_no_checkpoints(tmp_path: Path, make_spec: Make) -> None:
    journal = Journal(tmp_path)
    engine = Engine(make_spec(trials=15), journal)
    while trial := engine.next_trial():
        folder = journal.folder(trial.number)
        folder.mkdir(parents=True)
        (folder / "state.pt").write_text("s")
        (folder / "best.safetensors").write_text("w")
        while trial.state is State.RUNNING:
            engine.report(trial.number, curve(trial, trial.epoch + 1))
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {f"{trial.number:04d}" for trial in engine.best()[:3]}
    assert not list((tmp_path / "checkpoints").rglob("state.pt"))


def test_a_trial_whose_patience_ended_is_complete_and_a_replay_knows_it(tmp_path: Path, make_spec: Make) -> None:
    spec = make_spec(trials=2)
    engine = Engine(spec, Journal(tmp_path))
    first, second = engine.next_trial(), engine.next_trial()
    assert first and second
    for epoch in (1, 2):
        report = {"epoch": epoch, "score": 0.8, "best_epoch": 1, "failure": None, "ended": epoch == 2}
        decision = engine.report(first.number, report)
    assert (decision, first.state, first.epoch) == (Decision.COMPLETE, State.COMPLETE, 2)
    assert engine.optuna_trials[0].value == 0.8
    engine.journal.close()
    again = Engine(spec, Journal(tmp_path))
    assert [trial.state for trial in again.trials] == [State.COMPLETE, State.RUNNING]
    # The second trial passes the first rung ahead of the first trial's score; at the next it meets that score again.
    scores = {1: 0.9, 2: 0.9, 3: 0.7}
    for epoch, score in scores.items():
        report = {"epoch": epoch, "score": score, "best_epoch": 1, "failure": None, "ended": False}
        decision = again.report(second.number, report)
    assert decision is Decision.STOP
