"""All studies side by side: tables against scikit-learn and by hand, fronts by brute force."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from analysis.figures import Figure, Item, Missing, Table, overview, style
from analysis.load import Studies, load_studies
from tests.analysis.made import make_study
from tests.analysis.test_progress_figures import ODD, ORIGINS, REPORTS, drawn, outside, write_study

CLIPS = 4  # of each class and split, which keeps the bootstrap short


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished studies on the same clips; of the second's three trials the default is the best."""
    root = tmp_path_factory.mktemp("made")
    make_study(root / "mlp", "mlp", trials=30, clips=CLIPS)
    make_study(root / "lstm", "lstm", trials=3, clips=CLIPS)
    return root


@pytest.fixture(scope="module")
def studies(made: Path) -> Studies:
    return load_studies(made / "mlp", made / "lstm")


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The studies again, to be changed."""
    return shutil.copytree(made, tmp_path / "copy")


def table(item: Item) -> Table:
    assert isinstance(item, Table)
    return item


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# The leaderboard.


def test_the_leaderboard_is_what_scikit_learn_says(studies: Studies) -> None:
    board = table(overview.leaderboard(studies))
    assert len(board.data) == len(studies.models) == 7
    assert [(row.family, row.model) for row in board.data.itertuples()] == [(m.family, m.name) for m in studies.models]
    assert "study" not in board.data  # each is called as its family
    for model, row in zip(studies.models, board.data.to_dict("records"), strict=True):
        for split in ("tune", "valid", "test"):
            part = model.predictions[model.predictions["split"] == split]
            pair = part["true"], part["predicted"]
            assert row[f"{split}_accuracy"] == pytest.approx(accuracy_score(*pair))
            assert row[f"{split}_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(*pair))
        assert row["test_macro_f1"] == pytest.approx(f1_score(*pair, average="macro"))
        assert [row["test_interval_low"], row["test_interval_high"]] == model.metrics["splits"]["test"][
            "balanced_accuracy_interval"
        ]
        assert row["parameters"] == 1000 * (model.trial + 1)
        assert row["training_seconds"] == 81
        assert row["prediction_ms"] == 0.5 + model.trial


def test_the_leaderboard_is_sorted_by_tune_and_marks_what_was_chosen(studies: Studies) -> None:
    board = table(overview.leaderboard(studies))
    scores = [model.metrics["score"] for model in studies.models]
    assert scores == sorted(scores, reverse=True)
    assert not board.data["test_balanced_accuracy"].is_monotonic_decreasing  # test would have sorted them otherwise
    assert board.data["kind"].value_counts().to_dict() == {"published": 5, "chosen": 2}
    assert board.marked == {0, list(board.data["model"]).index("lstm default")}
    assert "n = 7 models, 2 studies; tune 12 clips of 6 groups, valid 12 clips of 6 groups" in board.caption
    assert "data" not in board.data


def test_a_chosen_recipe_and_changes_are_told(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "lstm", "lstm", trials=2, clips=CLIPS)  # the published recipes alone
    rewrite(folder / "best" / "baselines" / "lstm-2022" / "metrics.json", changes=["weights random"])
    board = table(overview.leaderboard(load_studies(folder)))
    assert board.data[["model", "kind", "changes"]].to_numpy().tolist() == [
        ["lstm-2018", "chosen, published", ""],
        ["lstm-2022", "published", "weights random"],
    ]
    assert board.marked == {0}


def test_studies_on_other_data_are_kept_apart(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = json.loads((copy / "lstm" / "study.json").read_text())
    rewrite(copy / "lstm" / "study.json", data={**spec["data"], "task": "source", "corpus": "nsynth:/here"})
    studies = load_studies(copy / "mlp", copy / "lstm")
    board = table(overview.leaderboard(studies))
    assert board.data["data"].tolist() == [
        *["demo, family, official split"] * 4,
        *["nsynth:/here, source, official split"] * 3,
    ]
    assert studies.models[1].study == "lstm"  # which would be the second row of one board
    assert "compare only within it" in board.caption
    monkeypatch.setattr(overview, "leads", lambda _: Missing("leads", "", ""))  # they take long, and are told below
    fronts = [item for item in overview.items(studies) if item.name.startswith("front-")]
    assert [set(item.data["family"]) for item in fronts] == [{"mlp"}, {"mlp"}, {"lstm"}, {"lstm"}]
    assert len({item.name for item in fronts}) == 4
    assert "(nsynth:/here, source, official split)" in fronts[2].title


def test_the_same_corpus_at_another_path_is_the_same(copy: Path) -> None:
    spec = json.loads((copy / "lstm" / "study.json").read_text())
    rewrite(copy / "lstm" / "study.json", data={**spec["data"], "corpus": "nsynth:/there"})
    studies = load_studies(copy / "mlp", copy / "lstm")
    assert len(overview.same_data(studies)) == 1
    rewrite(copy / "lstm" / "study.json", data={**spec["data"], "digest": "1" * 64})
    labels = list(overview.same_data(load_studies(copy / "mlp", copy / "lstm")))
    assert labels == [f"demo, family, official split, as in {name}" for name in ("mlp", "lstm")]


# Leads.


def predictions(wrong: int) -> pd.DataFrame:
    """Twelve clips of each of three classes in six groups, the first `wrong` of each class taken for another."""
    classes = np.array(["a", "b", "c"])
    true = np.repeat(np.arange(3), 12)
    place = np.tile(np.arange(12), 3)
    guess = np.where(place < wrong, (true + 1) % 3, true)
    frame = pd.DataFrame(
        {
            "name": [f"{classes[t]}{p:02d}" for t, p in zip(true, place, strict=True)],
            "split": "test",
            "group": [f"{classes[t]}{p % 6}" for t, p in zip(true, place, strict=True)],
            "true": classes[true],
            "predicted": classes[guess],
        }
    )
    return frame.assign(**{f"p_{name}": (guess == n).astype(np.float32) for n, name in enumerate(classes)})


def store(study: Path, *wrong: int, names: tuple[str, ...], others: tuple[pd.DataFrame, ...] = ()) -> None:
    """Predictions of a study's chosen model and of recipes, wrong in so many of twelve clips of each class."""
    tables = others or tuple(predictions(count) for count in wrong)
    for name, rows in zip(names, tables, strict=True):
        folder = study / "best" if name == "chosen" else study / "best" / "baselines" / name
        rows.to_parquet(folder / "predictions.parquet", index=False)
        rewrite(folder / "config.json", classes=["a", "b", "c"])


RECIPES = ("chosen", "mlp-genre-ce", "mlp-genre-hinge", "mlp-genre-kl")


def test_leads_by_hand(copy: Path) -> None:
    store(copy / "mlp", 0, 6, 6, 3, names=RECIPES)
    store(copy / "lstm", 1, 2, 2, names=("chosen", "lstm-2018", "lstm-2022"))
    studies = load_studies(copy / "mlp", copy / "lstm")
    first, second = (model for model in studies.models if model.chosen)
    assert (first.family, second.name) == ("mlp", "lstm default")
    recipe = next(model.name for model in studies.models if model.baseline)
    assert recipe == "mlp-genre-ce"  # all three have the same score on tune; the first trial of them
    leads = table(overview.leads(studies))
    rows = leads.data.set_index(["model", "against"])
    assert list(rows.index) == [
        (first.name, "mlp-genre-ce"), ("lstm default", first.name), ("lstm default", "mlp-genre-ce"),
    ]  # fmt: skip
    assert_allclose(rows["difference"], [6 / 12, -1 / 12, 5 / 12])
    assert rows["groups"].tolist() == [18] * 3
    assert rows["conclusion"].tolist() == [
        f"{first.name} is better than mlp-genre-ce.",
        f"lstm default is not distinguishable from {first.name}.",
        "lstm default is better than mlp-genre-ce.",
    ]
    assert (rows["low"] <= rows["difference"]).all()
    assert (rows["high"] >= rows["difference"]).all()
    assert "n = 3 comparisons" in leads.caption
    assert "same test clips" not in leads.caption


def test_models_scored_on_other_clips_are_not_compared(copy: Path) -> None:
    store(copy / "mlp", 0, 6, 6, 3, names=RECIPES)
    other = predictions(3)
    other["group"] = other["group"].replace("a0", "a1")
    store(copy / "lstm", names=("chosen", "lstm-2018", "lstm-2022"), others=(other, other, other))
    leads = table(overview.leads(load_studies(copy / "mlp", copy / "lstm")))
    assert [(row.model.split()[0], row.against) for row in leads.data.itertuples()] == [
        ("mlp", "mlp-genre-ce"),
        ("lstm", "lstm-2018"),
    ]
    assert leads.data["difference"].tolist() == [0.5, 0]
    assert leads.data["conclusion"].iloc[1] == "lstm default is not distinguishable from lstm-2018."
    assert leads.caption.startswith(
        "Not all studies were scored on the same test clips, and models are compared only where they were: mlp; lstm."
    )


def test_what_an_interval_allows_to_conclude() -> None:
    assert overview.conclusion("a", "b", [0.01, 0.2]) == "a is better than b."
    assert overview.conclusion("a", "b", [-0.2, -0.01]) == "a is worse than b."
    for interval in ([-0.1, 0.1], [0.0, 0.1], [-0.1, 0.0], [0.0, 0.0]):
        assert overview.conclusion("a", "b", interval) == "a is not distinguishable from b."
    assert "Nothing may be concluded" in overview.conclusion("a", "b", None)


def test_names_that_recur_are_told_apart(copy: Path) -> None:
    shutil.copytree(copy / "lstm", copy / "again")
    studies = load_studies(copy / "lstm", copy / "again")
    leads = table(overview.leads(studies))
    assert leads.data[["model", "against"]].to_numpy().tolist() == [
        ["lstm default · again", "lstm-2018 · again"],
        ["lstm default · lstm", "lstm default · again"],
        ["lstm default · lstm", "lstm-2018 · again"],
    ]


def test_a_lone_model_has_nobody_to_lead(copy: Path) -> None:
    shutil.rmtree(copy / "lstm" / "best" / "baselines")
    found = overview.leads(load_studies(copy / "lstm"))
    assert isinstance(found, Missing)
    assert "no two models" in found.reason


# Score against cost.


def brute_force(points: pd.DataFrame, cost: str) -> list[bool]:
    """Whether no other point costs at most as much and scores at least as high, unless it is equal in both."""
    pairs = list(zip(points[cost], points["score"], strict=True))
    return [not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in pairs) for cost, score in pairs]


@pytest.mark.parametrize("cost", list(overview.COSTS))
def test_the_front_is_that_of_all_studies_together(studies: Studies, cost: str) -> None:
    found = overview.front(studies, cost)
    assert isinstance(found, Figure)
    full = studies.trials[studies.trials["full"]]
    assert len(found.data) == len(full) > 10
    assert set(found.data["family"]) == {"mlp", "lstm"}
    assert found.data["front"].tolist() == brute_force(found.data, cost)
    assert 0 < found.data["front"].sum() < len(found.data)
    assert f"n = {len(full)} trials of 2 studies" in found.caption
    axes = drawn(found).axes[0]
    on = found.data[found.data["front"]]
    assert list(axes.lines[0].get_ydata()) == [*on["score"], on["score"].iloc[-1]]
    assert list(axes.lines[0].get_xdata()) == [*on[cost], found.data[cost].max()]
    assert axes.lines[0].get_drawstyle() == "steps-post"
    assert axes.get_xscale() == "log"
    assert sum(len(points.get_offsets()) for points in axes.collections) == len(full)


def test_parameters_that_the_journal_misses_come_from_the_models(copy: Path) -> None:
    path = copy / "mlp" / "epochs.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "trainable_parameters": None}) + "\n" for row in rows))
    studies = load_studies(copy / "mlp")
    found = overview.front(studies, "trainable_parameters")
    assert isinstance(found, Figure)
    expected = {model.trial: 1000 * (model.trial + 1) for model in studies.models}
    assert found.data.set_index("trial")["trainable_parameters"].to_dict() == expected
    lost = int(studies.trials["full"].sum()) - 4
    assert f"Of {lost} more the parameters or the score is not known." in found.caption
    shutil.rmtree(copy / "mlp" / "best")
    without = overview.front(load_studies(copy / "mlp"), "trainable_parameters")
    assert isinstance(without, Missing)
    assert "do not tell the parameters" in without.reason


@pytest.mark.parametrize(("low", "high"), [(1, 1), (57_738, 60_426), (9.9, 10.1), (0.2, 5_000), (1e3, 1e9), (70, 90)])
@pytest.mark.parametrize("cost", list(overview.COSTS))
def test_ticks_are_few_but_enough(cost: str, low: float, high: float) -> None:
    with style.context():
        axes = style.new().subplots()
        _, steps, words = overview.COSTS[cost]
        overview.log_axis(axes, low, high, steps, words)
    left, right = axes.get_xlim()
    ticks = axes.get_xticks()
    assert left < low <= high < right
    assert 2 <= len(ticks) <= 8
    assert np.diff(np.log(ticks)).min() > 0.07 * np.log(right / left), "labels have room"
    labels = [words(tick) for tick in ticks]
    assert len(set(labels)) == len(labels)


def test_numbers_as_people_say_them() -> None:
    assert [overview.short_count(n) for n in (1, 500, 1000, 57_738, 2e6, 5e9)] == [
        "1",
        "500",
        "1k",
        "57.7k",
        "2M",
        "5G",
    ]
    assert [overview.short_time(s) for s in (0.5, 20, 60, 1200, 1800, 7200)] == [
        *("0.5 s", "20 s", "1 min", "20 min", "30 min", "2 h"),
    ]


# What went wrong.


def test_warnings_name_their_study(studies: Studies) -> None:
    found = table(overview.warnings(studies)).data
    assert set(found["study"]) == {"mlp", "lstm"}
    text = found[found["study"] == "lstm"]["warning"].str.cat(sep="\n")
    assert "The search found nothing better than the default" in text
    assert "no sampled trial was trained in full" in text


def test_nothing_to_warn_of(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "warnings_of", lambda study: [])
    assert overview.warnings(studies) == Missing("warnings", "Warnings", "There is nothing to warn of.")


def test_failed_trials(tmp_path: Path, studies: Studies) -> None:
    by_hand = write_study(tmp_path / "by-hand", ORIGINS, REPORTS)
    found = table(overview.failures(Studies((by_hand,))))
    assert found.data.to_dict("records") == [
        {"study": "by-hand", "trial": 4, "name": "trial 4", "epoch": 2, "reason": "nan"},
    ]
    assert "1 of 6 trials failed" in found.caption
    none = overview.failures(studies)
    assert isinstance(none, Missing)
    assert none.reason == "None of 33 trials failed."


def test_recordings_left_out_are_listed_once(copy: Path) -> None:
    assert isinstance(overview.quarantined(load_studies(copy / "mlp")), Missing)
    head = "split,name,path,reason\n"
    both = [f"train,clip {n},/a b/{n}.wav,is silent\n" for n in range(250)]
    (copy / "mlp" / "quarantine.csv").write_text(head + "".join(both) + "test,<b>,x.wav,NA\n")
    (copy / "lstm" / "quarantine.csv").write_text(head + "".join(both))
    found = table(overview.quarantined(load_studies(copy / "mlp", copy / "lstm")))
    assert len(found.data) == 200
    assert "251 recordings" in found.caption
    assert "first 200" in found.caption
    assert set(found.data["studies"]) == {"all"}
    (copy / "lstm" / "quarantine.csv").write_text(head)
    found = table(overview.quarantined(load_studies(copy / "mlp", copy / "lstm")))
    assert set(found.data["studies"]) == {"mlp"}
    (copy / "mlp" / "quarantine.csv").write_text(head + "test,<b>,x.wav,NA\n")
    row = table(overview.quarantined(load_studies(copy / "mlp", copy / "lstm"))).data.iloc[0]
    assert row.to_dict() == {"split": "test", "name": "<b>", "path": "x.wav", "reason": "NA", "studies": "mlp"}


# The whole.


def kinds(items: Iterator[Item]) -> dict[str, type[Item]]:
    return {item.name: type(item) for item in items}


def test_studies_that_have_hardly_begun_leave_sentences(tmp_path: Path) -> None:
    empty = write_study(tmp_path / "empty", (), (), asked=4)
    begun = write_study(tmp_path / "begun", ("published", "default"), ())
    found = kinds(overview.items(Studies((empty, begun))))
    assert found.pop("warnings") is Table
    assert list(found.values()) == [Missing] * 6


def test_a_running_study_shows_what_it_has(tmp_path: Path) -> None:
    running = write_study(tmp_path / ODD, ORIGINS, REPORTS)
    found = list(overview.items(Studies((running,))))
    assert {type(item) for item in found[:2]} == {Missing}
    fronts = [item for item in found if isinstance(item, Figure)]
    assert [len(item.data) for item in fronts] == [3, 3]
    for item in fronts:
        assert outside(drawn(item)) == []


def test_names_are_unique_and_figures_the_same_again(studies: Studies) -> None:
    found = list(overview.items(studies))
    assert len({item.name for item in found}) == len(found) == 7
    for item in found:
        if isinstance(item, Figure):
            with style.context():
                assert style.svg(item.draw(item.data)) == style.svg(item.draw(item.data.copy()))
