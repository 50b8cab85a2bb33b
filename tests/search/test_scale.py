"""Long studies: what a trial costs is bounded, and up to a few hundred trials nothing is decided otherwise for it.

Counts are asserted, not times: benchmarks/scale.py has those.
"""

import math
import random
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.engine import Decision, Engine, State
from search.records import Journal
from search.scheduler import Asha
from search.searcher import REMEMBERED, Memory, Sampler, derived_seed
from search.study import StudySpec
from spaces.domains import Params, Space
from tests.search.conftest import SPACE
from tests.search.simulated import height, report, simulate

Make = Callable[..., StudySpec]


class PlainSampler:
    """The straightforward sampler: Optuna's own study, of which TPE sees every trial."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self.study = optuna.create_study(direction="maximize")

    def ask(self, number: int, fixed: Params | None) -> tuple[optuna.Trial, Params]:
        if fixed is not None:
            self.study.enqueue_trial(fixed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(
                seed=derived_seed(self.seed, number), multivariate=False, constant_liar=True
            )
        trial = self.study.ask()
        return trial, self.space(trial)


def proposed_by_both(sampler: Sampler, plain: PlainSampler, trials: int, every: int = 1) -> list[tuple[Params, Params]]:
    """What both propose for each of the last 15 trials and every so manieth before; both are told alike."""
    found = []
    rng = random.Random(0)
    for number in range(trials):
        x, y = rng.random(), rng.random()
        given: Params = {"x": x, "kind": "a"} if y < 0.3 else {"x": x, "kind": "b", "y": y}
        fixed = given if number % every and number < trials - 15 else None
        trial, expected = plain.ask(number, fixed)
        found.append((sampler.ask(number, fixed), expected))
        score = height(SPACE, expected)
        for epoch in range(1, 2 + number % 3):
            trial.report(score * epoch / 4, epoch)
            sampler.report(number, epoch, score * epoch / 4)
        if number % 5 == 0:
            plain.study.tell(trial, score)
            sampler.complete(number, score)
        elif number % 13 == 1:
            plain.study.tell(trial, state=TrialState.FAIL)
            sampler.fail(number)
        else:
            plain.study.tell(trial, state=TrialState.PRUNED)
            sampler.prune(number)
    return found


def test_until_the_bound_is_reached_proposals_are_those_of_an_unbounded_study() -> None:
    """Of 13 trials one fails and takes no room: 60 have ended with a value when the 65th is asked for."""
    found = proposed_by_both(Sampler(SPACE, 3, Memory(60, 12)), PlainSampler(SPACE, 3), 80)
    equal = [ours == theirs for ours, theirs in found]
    assert equal[:65] == [True] * 65
    assert not all(equal[65:]), "the bound does bound"


@pytest.mark.slow
def test_a_study_of_ordinary_size_is_proposed_what_an_unbounded_one_is() -> None:
    """Up to the proposal beside 500 trials that ended with a value, and those that failed."""
    sampler = Sampler(SPACE, 0)
    found = proposed_by_both(sampler, PlainSampler(SPACE, 0), 534, every=40)
    assert sum(trial.state is not TrialState.FAIL for trial in sampler.trials) == REMEMBERED + 1
    assert all(ours == theirs for ours, theirs in found)


@pytest.mark.parametrize("seed", range(5))
def test_shown_are_the_running_the_best_and_the_latest(seed: int) -> None:
    """Against the definition, over trials that end in any order, with ties."""
    rng = random.Random(seed)
    sampler = Sampler(SPACE, seed, Memory(30, 10))
    running: list[int] = []
    ended: dict[int, tuple[float, float]] = {}
    for number in range(150):
        sampler.ask(number, SPACE.default)
        running.append(number)
        while len(running) > rng.randrange(12):
            one = running.pop(rng.randrange(len(running)))
            score, epoch = rng.randrange(8) / 8, rng.choice((1, 3))
            if rng.random() < 0.1:
                sampler.fail(one)
                continue
            sampler.report(one, epoch, score)
            if epoch == 3 and rng.random() < 0.5:
                sampler.complete(one, score)
                ended[one] = (math.inf, score)
            else:
                sampler.prune(one)
                ended[one] = (epoch, score)
        best = sorted(ended, key=lambda n: (-ended[n][0], -ended[n][1], n))[:10]
        latest = sorted(set(ended) - set(best))[-20:]
        assert sampler.memory.shown == sorted((*best, *latest, *running))
    shown = [trial for trial in sampler.trials if trial.params]
    assert {trial.number for trial in shown} == set(sampler.memory.shown), "of the others no params are kept"
    assert len(sampler.trials) == 150


class Counted(float):
    """A score that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) < float(other)

    def __gt__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) > float(other)

    def __ge__(self, other: float) -> bool:
        Counted.comparisons += 1
        return float(self) >= float(other)


def test_a_rung_decides_as_a_list_of_all_arrivals_does_with_few_comparisons() -> None:
    rng = random.Random(1)
    asha, arrived = Asha((1, 3), 3), list[float]()
    for _ in range(3000):
        score = rng.randrange(200) / 200
        ahead = sum(other >= score for other in arrived)
        arrived.append(score)
        Counted.comparisons = 0
        assert asha.passes(1, Counted(score)) == (ahead == 0 or 3 * ahead < len(arrived))
        assert Counted.comparisons <= 2 * math.log2(len(arrived)) + 4
    assert asha.scores[1] == sorted(arrived)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies whose samplers are shown 50 ended trials."""

    def make(space: Space, seed: int) -> Sampler:
        return Sampler(space, seed, Memory(50, 10))

    monkeypatch.setattr("search.engine.Sampler", make)


def state(engine: Engine) -> dict[str, Any]:
    """All that the next decision and the next proposal depend on."""
    return {
        "trials": engine.trials,
        "running": engine.running,
        "best": [trial.number for trial in engine.best()],
        "rungs": engine._asha.scores,
        "shown": engine._sampler.memory.shown,
        "told": [
            (trial.number, trial.params, trial.state, trial.value, trial.intermediate_values)
            for trial in engine.optuna_trials
            if trial.state is not TrialState.RUNNING
        ],
    }


@pytest.mark.slow
@pytest.mark.usefixtures("small_memory")
def test_a_long_study_in_many_slots(tmp_path: Path, make_spec: Make) -> None:
    """1,000 trials in 32 slots: bounded in what is looked at, right in its rungs, whole in its journal."""
    slots, spec = 32, make_spec(trials=1000, max_epochs=27, with_baselines=True)
    journal = Journal(tmp_path)
    engine = Engine(spec, journal)
    for ended, _ in enumerate(simulate(engine, slots), start=1):
        if ended % 50 == 0:
            assert len(engine._sampler.memory.shown) <= 50 + slots
            kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
            top = {trial.number for trial in engine.best()[:3]}
            assert kept == {trial.number for trial in engine.running} | top | {0}, "0 is the published recipe"
            assert not [held for held in vars(journal).values() if isinstance(held, list | dict | set | deque)]
    assert len(engine.trials) == 1000
    assert {trial.state for trial in engine.trials} == {State.COMPLETE, State.PRUNED, State.FAILED}
    full = [trial for trial in engine.trials if trial.state is State.COMPLETE]
    assert engine.best() == sorted(full, key=lambda trial: (-(trial.score or 0.0), trial.number))

    arrived: dict[int, list[float]] = {rung: [] for rung in spec.rungs}
    for row in journal.rows:
        if row["event"] != "epoch" or row["failure"]:
            continue
        if row["epoch"] in spec.rungs:
            arrived[row["epoch"]].append(row["score"])
            ahead = sum(other >= row["score"] for other in arrived[row["epoch"]]) - 1
            passes = ahead == 0 or 3 * ahead < len(arrived[row["epoch"]])
            kept_on = passes or engine.trials[row["trial"]].origin != "sampled"
            expected = Decision.CONTINUE if kept_on else Decision.STOP
            assert row["decision"] == (Decision.COMPLETE if row["ended"] or row["epoch"] == 27 else expected)
        if row["ended"]:
            for rung in spec.rungs:
                if rung > row["epoch"]:
                    arrived[rung].append(row["score"])
    assert len(arrived[1]) > 900
    journal.close()

    again = Engine(spec, Journal(tmp_path))
    for part, expected in state(engine).items():
        assert state(again)[part] == expected, part
    again.journal.close()


@pytest.mark.slow
@pytest.mark.usefixtures("small_memory")
def test_resumed_amid_many_running_trials_a_study_goes_on_as_the_undisturbed_one(
    tmp_path: Path, make_spec: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies with 16 trials running; what is proposed and decided from there on is the same.

    The undisturbed one is shown the same reports in the same order. Reading the journal makes no proposals.
    """
    spec = make_spec(trials=400, max_epochs=27)
    engine = Engine(spec, Journal(tmp_path))
    for ended, _ in enumerate(simulate(engine, 16), start=1):
        if ended == 150:
            break
    with monkeypatch.context() as patch:
        engine.journal.close()
        patch.setattr(optuna.samplers.TPESampler, "sample_relative", partial(pytest.fail, "a proposal was made"))
        resumed = Engine(spec, Journal(tmp_path))
    for part, expected in state(engine).items():
        assert state(resumed)[part] == expected, part
    assert len(engine.running) == 15, "the 16th has just ended"
    resumed.journal.close()
    for going in (engine, resumed):
        going.journal = Journal(tmp_path / f"{id(going)}")
        going._waiting = []
        _rounds(going)
    assert resumed.trials == engine.trials
    assert [trial.params for trial in resumed.trials[-100:]] == [trial.params for trial in engine.trials[-100:]]


def _rounds(engine: Engine) -> None:
    """Goes on in rounds: every running trial reports once, then a new one begins for each that ended."""
    for _ in range(30):
        ended = 0
        for trial in engine.running:
            engine.report(trial.number, report(engine.spec.space, trial, trial.epoch + 1))
            ended += trial.state is not State.RUNNING
        for _ in range(ended):
            engine.next_trial()
