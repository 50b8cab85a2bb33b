"""What the loss does at everything else equal, and where models disagree."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import load_studies, predictions
from analysis.figures import Figure, Item, Missing, Table, comparison, style
from analysis.figures.models import Scored, scored
from analysis.load import Studies
from tests.analysis.made import make_study
from trainables import scoring
from trainables.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    """Fewer than the 2000 of which intervals are made, which take most of the time; `test_predictions` has all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_RESAMPLES", 100)
        predictions._draws.cache_clear()
        yield
    predictions._draws.cache_clear()


@pytest.fixture(scope="module")
def studies(few_resamples: None, tmp_path_factory: pytest.TempPathFactory) -> Studies:
    folder = tmp_path_factory.mktemp("studies")
    make_study(folder / "mlp", trials=8)
    make_study(folder / "cnn2d", family="cnn2d", trials=2)
    return load_studies(folder)


@pytest.fixture(scope="module")
def items(studies: Studies) -> dict[str, Item]:
    found = list(comparison.items(studies))
    assert len({item.name for item in found}) == len(found)
    return {item.name: item for item in found}


@pytest.fixture(autouse=True)
def drawn_in_style() -> Iterator[None]:
    with style.context():
        yield


def by_kind(items: dict[str, Item], kind: str) -> list[Item]:
    return [item for name, item in items.items() if name.startswith(kind)]


def test_the_recipes_that_differ_in_the_loss_are_found(studies: Studies, items: dict[str, Item]) -> None:
    table, figure = items["losses"], items["losses-on-test"]
    assert isinstance(table, Table) and isinstance(figure, Figure)
    assert table.data["trial"].tolist() == ["mlp-genre-ce", "mlp-genre-hinge", "mlp-genre-kl"]
    assert table.data["loss"].tolist() == ["ce", "hinge", "kl"]
    assert table.data["smoothing"].fillna(-1).tolist() == [0.0, -1, 0.02]
    models = {model.model.baseline: model.model for model in scored(studies)}
    reference = models["mlp-genre-ce"].predictions
    for row in table.data.itertuples():
        own = models[row.trial]
        assert row.tune_balanced_accuracy == own.metrics["score"]
        stored = own.metrics["splits"]["test"]
        assert [row.balanced_accuracy, row.accuracy] == [stored["balanced_accuracy"], stored["accuracy"]]
        assert [row.low, row.high] == pytest.approx(stored["balanced_accuracy_interval"])
        expected = scoring.difference(own.predictions, reference, "test")
        assert row.difference == pytest.approx(expected["difference"], abs=1e-12)
        assert [row.difference_low, row.difference_high] == pytest.approx(expected["interval"], abs=1e-12)
    assert figure.data["trial"].tolist() == table.data["trial"].tolist()
    assert style.svg(figure.draw(figure.data)) == style.svg(figure.draw(figure.data))


def change(folder: Path, trial: int, **params: object) -> None:
    """Rewrites a trial's parameters in a journal."""
    path = folder / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["event"] == "started" and row["trial"] == trial:
            row["params"] |= params
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def groups(folder: Path) -> list[list[str]]:
    studies = load_studies(folder)
    return [group.trials["name"].tolist() for group in comparison.loss_groups(studies, scored(studies))]


def test_a_trial_that_differs_in_more_than_the_loss_is_left_out(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "mlp", trials=4)
    change(folder, 2, hidden_1=500)
    assert groups(tmp_path) == [["mlp-genre-ce", "mlp-genre-hinge"]]
    change(folder, 1, hidden_1=501)
    assert groups(tmp_path) == []
    found = next(iter(comparison.items(load_studies(tmp_path))))
    assert isinstance(found, Missing) and "--space mlp" in found.reason


def test_default_configurations_of_two_studies_are_compared(tmp_path: Path) -> None:
    make_study(tmp_path / "ce", trials=1, baselines=False)
    change(make_study(tmp_path / "hinge", trials=1, baselines=False), 0, loss="hinge", label_smoothing=None)
    studies = load_studies(tmp_path)
    table = next(iter(comparison.items(studies)))
    assert isinstance(table, Table)
    assert table.data["study"].tolist() == ["ce", "hinge"]
    assert table.data["difference"].tolist() == [0, 0]  # the made-up predictions have the same seed
    make_study(tmp_path / "longer", trials=1, baselines=False, max_epochs=27)
    assert groups(tmp_path) == [["default", "default"]]


def test_trials_without_predictions_are_listed_but_not_drawn(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "mlp", trials=4)
    for name in ("mlp-genre-hinge", "mlp-genre-kl"):
        (folder / "best" / "baselines" / name / "metrics.json").unlink()
    table, missing, *_ = comparison.items(load_studies(tmp_path))
    assert isinstance(table, Table) and isinstance(missing, Missing)
    assert len(table.data) == 3 and table.data["balanced_accuracy"].notna().sum() <= 1
    assert missing.name == "losses-on-test"


def test_agreement_and_the_best_against_all(studies: Studies, items: dict[str, Item]) -> None:
    models = scored(studies)
    (figure,), (table,) = by_kind(items, "agreement"), by_kind(items, "against-the-best")
    assert isinstance(figure, Figure) and isinstance(table, Table)
    shares = figure.data.set_index(["first", "second"])["agreement"]
    assert len(shares) == len(models) ** 2
    for one in models:
        for two in models:
            expected = (one.test["predicted"] == two.test["predicted"]).mean()
            assert shares[one.label, two.label] == pytest.approx(expected)
    best = models[0]
    assert table.data["other"].tolist() == [model.label for model in models[1:]]
    for row, model in zip(table.data.to_dict("records"), models[1:], strict=True):
        expected = scoring.difference(best.model.predictions, model.model.predictions, "test")
        assert row["difference"] == pytest.approx(expected["difference"], abs=1e-12)
        assert [row["low"], row["high"]] == pytest.approx(expected["interval"], abs=1e-12)
        one, two = (m.test["true"] == m.test["predicted"] for m in (best, model))
        counts = [row[key] for key in ("both right", "only the best", "only the other", "both wrong")]
        assert counts == [(one & two).sum(), (one & ~two).sum(), (~one & two).sum(), (~one & ~two).sum()]


def test_the_pairs_are_the_second_and_the_best_recipe(studies: Studies, items: dict[str, Item]) -> None:
    models = scored(studies)
    best, second = models[:2]
    baseline = next(model for model in models[1:] if model.model.baseline)
    wanted = list(dict.fromkeys((second.label, baseline.label)))
    tables = by_kind(items, "recall")
    assert [item.title for item in tables] == [f"Recall by class: {best.label} and {label}" for label in wanted]
    for item, label in zip(tables, wanted, strict=True):
        assert isinstance(item, Table)
        other = next(model for model in models if model.label == label)
        for row in item.data.to_dict("records"):
            recalls = [recall(model, row["class"]) for model in (best, other)]
            found = [row[f"recall of {best.label}"], row[f"recall of {label}"], row["difference"]]
            assert found == pytest.approx([*recalls, recalls[0] - recalls[1]])
    clips = by_kind(items, "clips")
    assert len(clips) == len(wanted)
    assert all(isinstance(item, Table) and item.data["gap"].abs().is_monotonic_decreasing for item in clips)


def recall(model: Scored, name: str) -> float:
    own = model.test[model.test["true"] == name]
    return float((own["predicted"] == name).mean())


def test_models_on_other_clips_are_compared_apart(tmp_path: Path) -> None:
    make_study(tmp_path / "mlp", trials=4)
    make_study(tmp_path / "cnn2d", family="cnn2d", trials=6, clips=7)
    found = list(comparison.items(load_studies(tmp_path)))
    figures = [item for item in found if isinstance(item, Figure) and item.name.startswith("agreement")]
    assert sorted(len(item.data) for item in figures) == [4, 9]
    assert all("other clips" in item.caption for item in figures)


def test_one_model_or_none(tmp_path: Path) -> None:
    make_study(tmp_path / "going", trials=2, finished=False)
    assert [type(item) for item in comparison.items(load_studies(tmp_path))] == [Missing, Missing]
    make_study(tmp_path / "mlp", trials=1, baselines=False)
    found = list(comparison.items(load_studies(tmp_path)))
    assert [type(item) for item in found] == [Missing, Missing]
    assert isinstance(found[1], Missing) and "only one model" in found[1].reason


@pytest.mark.parametrize("count", [2, 16, 25])
def test_a_matrix_of_agreement_keeps_its_labels_inside(count: int) -> None:
    names = [f"<b>{n} " + "W" * 28 for n in range(count)]
    pairs = pd.MultiIndex.from_product([names, names], names=["first", "second"]).to_frame(index=False)
    drawing = comparison._draw_agreement(pairs.assign(agreement=np.linspace(0, 1, count**2)))
    drawing.draw_without_rendering()
    for text in (text for axes in drawing.axes for text in axes.texts):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= drawing.bbox.x1 and box.y0 >= 0 and box.y1 <= drawing.bbox.y1, text


def test_any_two_models_can_be_set_against_each_other(studies: Studies) -> None:
    one, other = (model.label for model in scored(studies)[:2])
    found = list(comparison.disagreements(studies, one, other))
    assert [item.title for item in found] == [
        f"Recall by class: {one} and {other}",
        f"Clips that tell {one} from {other}",
    ]
    with pytest.raises(UserError, match="must be one of"):
        list(comparison.disagreements(studies, one, "nobody"))
