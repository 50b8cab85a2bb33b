"""What Optuna is told, and that a sampler told the same history goes on in the same way."""

from statistics import mean

import pytest
from optuna.trial import TrialState

from search.searcher import Sampler, derived_seed
from tests.search.conftest import SPACE


def run(sampler: Sampler, numbers: range) -> list[dict[str, object]]:
    """Asks and completes trials one after another; the score rewards x near 0.7."""
    asked = []
    for number in numbers:
        params = sampler.ask(number)
        asked.append(params)
        score = 1 - abs(float(params["x"]) - 0.7)
        sampler.report(number, 1, score / 2)
        if number % 3 == 2:
            sampler.prune(number)
        elif number % 7 == 6:
            sampler.fail(number)
        else:
            sampler.complete(number, score)
    return asked


def test_states_and_values_are_the_truth() -> None:
    sampler = Sampler(SPACE, seed=1)
    for number in range(3):
        sampler.ask(number)
    sampler.report(0, 1, 0.2)
    sampler.report(0, 3, 0.4)
    sampler.complete(0, 0.4)
    sampler.report(1, 1, 0.1)
    sampler.prune(1)
    sampler.fail(2)
    trials = sampler.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert trials[0].intermediate_values == {1: 0.2, 3: 0.4}
    assert trials[1].last_step == 1
    assert trials[1].value == 0.1
    assert trials[2].values is None


def test_equal_seeds_ask_equally_and_other_seeds_do_not() -> None:
    first, second, other = (run(Sampler(SPACE, seed), range(25)) for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_a_sampler_told_the_history_goes_on_as_if_nothing_had_happened() -> None:
    whole = run(Sampler(SPACE, 5), range(30))
    resumed = Sampler(SPACE, 5)
    for number, params in enumerate(whole[:18]):
        assert resumed.ask(number, params) == params
        score = 1 - abs(float(params["x"]) - 0.7)  # type: ignore[arg-type]
        resumed.report(number, 1, score / 2)
        if number % 3 == 2:
            resumed.prune(number)
        elif number % 7 == 6:
            resumed.fail(number)
        else:
            resumed.complete(number, score)
    assert run(resumed, range(18, 30)) == whole[18:]


def test_it_learns_from_what_it_is_told() -> None:
    """The last 20 of 60 proposals lie much nearer to the best point than the first ten, which are random."""
    early, late = [], []
    for seed in range(4):
        distances = [abs(float(params["x"]) - 0.7) for params in run(Sampler(SPACE, seed), range(60))]  # type: ignore[arg-type]
        early += distances[:10]
        late += distances[-20:]
    assert mean(late) < 0.6 * mean(early)


def test_params_given_are_those_taken() -> None:
    sampler = Sampler(SPACE, 0)
    assert sampler.ask(0, {"x": 0.125, "kind": "b", "y": 0.5}) == {"x": 0.125, "kind": "b", "y": 0.5}


def test_a_trial_out_of_turn_is_an_error() -> None:
    with pytest.raises(AssertionError, match="must follow"):
        Sampler(SPACE, 0).ask(1)


def test_seeds_of_trials_differ() -> None:
    assert len({derived_seed(0, number) for number in range(1000)}) == 1000
