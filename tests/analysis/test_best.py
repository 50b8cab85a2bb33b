"""The best trials and the Pareto front, by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis.best import best, lower_is_better, pareto
from trainables.errors import UserError


def table(**columns: list[object]) -> pd.DataFrame:
    rows = len(next(iter(columns.values())))
    plain = {"trial": range(rows), "study": "s", "full": True, **columns}
    return pd.DataFrame(plain).convert_dtypes()


TRIALS = table(
    score=[0.5, 0.7, 0.7, 0.9, None, 0.6],
    full=[True, True, True, False, True, True],
    family=["a", "a", "b", "b", "b", None],
    trainable_parameters=[10, 20, 5, 1, 1, 7],
    train_seconds=[3.0, 2.0, 1.0, 4.0, 5.0, 6.0],
)


def numbers(found: pd.DataFrame) -> list[int]:
    return found["trial"].tolist()


def test_only_full_trials_count_and_the_earlier_of_equals_is_first() -> None:
    assert numbers(best(TRIALS)) == [1]
    assert numbers(best(TRIALS, n=10)) == [1, 2, 5, 0]  # without 3, which is partial, and 4, which has no score
    assert numbers(best(TRIALS, partial=True)) == [3]


def test_per_group_and_under_a_condition() -> None:
    assert numbers(best(TRIALS, per="family")) == [1, 2]
    assert numbers(best(TRIALS, per=["family"], n=2)) == [1, 2, 0]
    assert numbers(best(TRIALS, where="trainable_parameters < 20")) == [2]
    assert numbers(best(TRIALS, where="family == 'nobody'")) == []
    assert numbers(best(TRIALS.rename(columns={"family": "param.loss"}), where="`param.loss` == 'a'")) == [1]


def test_costs_are_better_when_they_are_lower() -> None:
    assert numbers(best(TRIALS, by="train_seconds")) == [2]
    assert numbers(best(TRIALS, by="trainable_parameters")) == [4]
    assert [lower_is_better(name) for name in ("best_tune_loss", "last_tune_cross_entropy", "memory_bytes")] == [
        True
    ] * 3
    assert not lower_is_better("best_tune_macro_f1")
    assert lower_is_better("gpu_share")


def test_mistakes_are_said() -> None:
    with pytest.raises(UserError, match=r"no 'seconds'\. Did you mean train_seconds"):
        best(TRIALS, by="seconds")
    with pytest.raises(UserError, match="no 'loss'"):
        best(TRIALS, per="loss")
    with pytest.raises(UserError, match="must be a condition"):
        best(TRIALS, where="score >")


def test_the_front_by_hand() -> None:
    trials = table(cost=[1, 2, 2, 3, 4, 4, 5, None], score=[0.2, 0.5, 0.4, 0.5, 0.8, 0.8, 0.7, 0.9])
    assert pareto(trials, "cost").tolist() == [True, True, False, False, True, True, False, False]


def test_the_front_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        trials = table(cost=rng.integers(1, 8, 30).tolist(), score=(rng.integers(1, 8, 30) / 8).tolist())
        cost, score = trials["cost"].to_numpy(), trials["score"].to_numpy()
        expected = [
            not any(
                (c <= cost[i] and s >= score[i] and (c, s) != (cost[i], score[i]))
                for c, s in zip(cost, score, strict=True)
            )
            for i in range(30)
        ]
        assert pareto(trials, "cost").tolist() == expected
