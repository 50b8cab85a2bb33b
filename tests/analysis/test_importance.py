"""Importances against known ones: made-up studies in which it is known what matters, and Optuna's own answer."""

import dataclasses
import math
import warnings
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from analysis.figures import Figure, Missing, importance, style
from analysis.load import Study, load_study
from spaces.domains import Params
from tests.analysis.made import Height, by_learning_rate, make_study

pytestmark = pytest.mark.slow


def full_study(directory: Path, trials: int, height: Height = by_learning_rate, seed: int = 2) -> Study:
    """A study with so many trials of full length, and one more that has just begun."""
    made = make_study(directory, trials=trials + 1, max_epochs=1, height=height, seed=seed, finished=False)
    return load_study(made)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Thirty trials at full length."""
    return full_study(tmp_path_factory.mktemp("studies") / "small", 30)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three resamples, for tests that are not about intervals."""
    monkeypatch.setattr(importance, "_resamples", lambda trials: 3)


def with_trials(study: Study, trials: pd.DataFrame) -> Study:
    return dataclasses.replace(study, trials=trials.reset_index(drop=True))


def part(table: pd.DataFrame, method: str) -> "pd.Series[float]":
    return table[table["method"].eq(method)].set_index("parameter")["importance"]


def test_the_learning_rate_comes_first_by_far(tmp_path: Path) -> None:
    """n = 140; the score depends on the learning rate, hardly on the batch size and on nothing else."""
    table = importance.importances(full_study(tmp_path / "s", 140))
    assert table["parameter"].iloc[0] == "learning_rate"
    for method, least in (("PED-ANOVA", 0.6), ("fANOVA", 0.95)):
        parts = part(table, method)
        assert parts["learning_rate"] > least
        assert parts.drop("learning_rate").max() < 0.1
        assert parts.sum() == pytest.approx(1)
        rows = table[table["method"].eq(method)].set_index("parameter")
        assert rows.loc["learning_rate", "low"] > rows["high"].drop("learning_rate").max()


@pytest.mark.usefixtures("few")
def test_a_second_parameter_comes_second(tmp_path: Path) -> None:
    """n = 200; so it came out with three seeds of three."""

    def height(params: Params) -> float:
        return (
            0.9
            - 0.3 * abs(math.log10(float(params["learning_rate"])) + 2)
            - 0.06 * math.log2(int(params["batch_size"]) / 32)
        )

    study = full_study(tmp_path / "s", 200, height)
    assert importance.ranking(study)[:2] == ["learning_rate", "batch_size"]
    table = importance.importances(study)
    assert list(dict.fromkeys(table["parameter"])) == [
        name for name in importance.ranking(study) if name in set(table["parameter"])
    ]
    for method in importance.METHODS:
        assert list(part(table, method).sort_values(ascending=False).index[:2]) == ["learning_rate", "batch_size"]


@pytest.mark.usefixtures("few")
def test_fanova_weighs_a_logarithmic_range_as_it_is_sampled(tmp_path: Path) -> None:
    """Two parameters, each uniform in its own scale, add the same to the score: each explains half of its variance."""

    def height(params: Params) -> float:
        rate = math.log(float(params["learning_rate"]) / 1e-4) / math.log(300)
        return 0.2 + 0.3 * rate + 0.3 * float(params["dropout"]) / 0.6

    parts = part(importance.importances(full_study(tmp_path / "s", 150, height)), "fANOVA")
    assert parts["learning_rate"] == pytest.approx(0.5, abs=0.1)
    assert parts["dropout"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.usefixtures("few")
def test_conditional_parameters_are_left_to_ped_anova(small: Study) -> None:
    table = importance.importances(small)
    assert {"momentum", "label_smoothing"} <= set(part(table, "PED-ANOVA").index)
    assert not {"momentum", "label_smoothing"} & set(part(table, "fANOVA").index)


def test_ped_anova_is_optunas_on_the_trials_and_on_resamples_of_them(small: Study) -> None:
    """A resample that repeats trials gives what a study gives to which Optuna itself added the repeated trials."""
    with importance._quiet():
        trials = importance._optuna_trials(small)
    names = [param.name for param in small.space.params]
    for places in (np.arange(30), np.random.default_rng(3).integers(0, 30, 30)):
        drawn = [trials[place] for place in places]
        with importance._quiet():
            found = importance._parts("PED-ANOVA", drawn, names, 0, 4)
            real = optuna.create_study(direction="maximize")
            real.add_trials(drawn)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=10 / 30)
            expected = optuna.importance.get_param_importances(real, evaluator=evaluator)
        assert found == pytest.approx(expected)
        assert max(expected.values()) > 2 * min(expected.values())


@pytest.mark.usefixtures("few")
def test_only_trials_at_full_length_count(tmp_path: Path) -> None:
    study = load_study(make_study(tmp_path / "s", trials=60, max_epochs=3, seed=2, finished=False))
    assert 10 <= study.trials["full"].sum() < 50
    only = with_trials(study, study.trials[study.trials["full"]])
    pd.testing.assert_frame_equal(importance.importances(study), importance.importances(only))


@pytest.mark.usefixtures("few")
def test_a_trial_without_a_score_is_left_out(small: Study) -> None:
    trials = small.trials.copy()
    trials.loc[3, "score"] = pd.NA
    expected = importance.importances(with_trials(small, trials.drop(3)))
    pd.testing.assert_frame_equal(importance.importances(with_trials(small, trials)), expected)


def test_a_recipe_outside_the_space_counts_as_its_nearest_point(small: Study) -> None:
    trials = small.trials.copy()
    trials.loc[0, ["param.learning_rate", "param.dropout", "param.batch_size"]] = [1.0, 0.9, 8]
    with importance._quiet():
        params = importance._optuna_trials(with_trials(small, trials))[0].params
    assert params["learning_rate"] == pytest.approx(math.log(3e-2))
    assert (params["dropout"], params["batch_size"]) == (0.6, 16)


@pytest.mark.parametrize(
    ("rows", "change", "words"),
    [
        (9, {}, "at least 10 trials at full length, but there are 9"),
        (1, {}, "there is one"),
        (0, {}, "there is none"),
        (20, {"score": 0.5}, "All 20 trials at full length have the same score"),
        (20, "params", "No parameter varied"),
        (20, {"full": False}, "there is none"),
    ],
)
def test_what_cannot_be_known_is_said(small: Study, rows: int, change: object, words: str) -> None:
    trials = small.trials.head(rows).copy()
    if change == "params":
        for column in trials.filter(like="param."):
            trials[column] = trials[column].iloc[5]
    elif isinstance(change, dict):
        trials = trials.assign(**change)
    study = with_trials(small, trials)
    found = importance.importance(study)
    assert isinstance(found, Missing)
    assert words in found.reason
    assert sorted(importance.ranking(study)) == sorted(param.name for param in study.space.params)


def test_scores_that_hardly_vary_do_not_stop_it(small: Study) -> None:
    """One score of twelve differs: many resamples lack it, and fANOVA's trees see no variance."""
    trials = small.trials.head(12).assign(score=[0.5] * 11 + [0.9])
    found = importance.importance(with_trials(small, trials.astype({"score": "Float64"})))
    assert isinstance(found, Figure)
    assert found.data["importance"].between(0, 1).all()


@pytest.mark.usefixtures("few")
def test_the_figure_shows_fifteen_and_says_from_what(small: Study) -> None:
    study = dataclasses.replace(small, name="$x$ <b> a/b")
    found = importance.importance(study)
    assert isinstance(found, Figure)
    assert "30 trials of $x$ <b> a/b at full length" in found.caption
    assert "nothing of direction" in found.caption
    with warnings.catch_warnings(), style.context():
        warnings.simplefilter("error")
        drawing = found.draw(found.data)
        left, right = drawing.axes
        assert [text.get_text() for text in left.get_yticklabels()] == list(dict.fromkeys(found.data["parameter"]))[:15]
        parts = part(found.data, "PED-ANOVA")
        assert [bar.get_width() for bar in left.patches] == [
            parts[name] for name in dict.fromkeys(found.data["parameter"])
        ][:15]
        assert (left.get_title(loc="left"), right.get_title(loc="left")) == ("PED-ANOVA", "fANOVA")
        assert style.svg(found.draw(found.data)) == style.svg(found.draw(found.data))
    pd.testing.assert_frame_equal(found.data, importance.importances(study))


@pytest.mark.parametrize(("importances", "words"), [((None, None), "none found"), ((0.5, None), "not in every")])
def test_what_has_no_bar_is_told_why(importances: tuple[float | None, ...], words: str) -> None:
    rows = [
        {"parameter": name, "method": method, "importance": value, "low": value, "high": value}
        for method, values in ((importance.PED_ANOVA, importances), (importance.FANOVA, (0.4, 0.6)))
        for name, value in zip(("depth", "pool"), values, strict=True)
        if value is not None
    ]
    with style.context():
        left, right = importance._draw(pd.DataFrame(rows)).axes
    assert {text.get_text()[: len(words)] for text in left.texts} == {words}
    assert not right.texts
