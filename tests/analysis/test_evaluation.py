"""What the report says of each model, held to its stored predictions and the journal."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from analysis import load_studies, predictions
from analysis.figures import Figure, Item, Missing, Table, evaluation, overview, style
from analysis.figures.models import labels, same_clips, scored
from analysis.load import Studies
from tests.analysis.made import make_study
from trainables import scoring

ODD = ("<b>", "a/b", "$x$", "x" * 60)


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
    make_study(folder / "mlp", classes=ODD, trials=8)
    make_study(folder / "cnn2d", family="cnn2d", classes=ODD, trials=2)
    make_study(folder / "going", trials=2, finished=False)
    return load_studies(folder)


@pytest.fixture(scope="module")
def items(studies: Studies) -> dict[str, Item]:
    found = list(evaluation.items(studies))
    assert len({item.name for item in found}) == len(found)
    return {item.name: item for item in found}


@pytest.fixture(autouse=True)
def drawn_in_style() -> Iterator[None]:
    with style.context():
        yield


def only(items: dict[str, Item], kind: str) -> Item:
    return next(item for name, item in items.items() if name.startswith(kind))


def test_what_is_there(studies: Studies, items: dict[str, Item]) -> None:
    kinds = ("learning-curves", "confusion", "classification-report", "reliability", "layers", "hyperparameters")
    for model in scored(studies):
        assert {model.name(kind) for kind in kinds} <= set(items)
    assert len(items) == len(kinds) * len(studies.models) + 3
    missing = [item for item in items.values() if isinstance(item, Missing)]
    assert [item.title for item in missing] == ["Evaluation of going"]


@pytest.mark.parametrize("kind", ["accuracy-by", "times-by", "learning-curves", "confusion", "reliability"])
def test_every_figure_is_drawn_twice_alike(items: dict[str, Item], kind: str) -> None:
    item = only(items, kind)
    assert isinstance(item, Figure)
    one, two = (style.svg(item.draw(item.data.copy())) for _ in range(2))
    assert one == two and len(one) > 5000


def test_scores_are_those_stored(studies: Studies, items: dict[str, Item]) -> None:
    item = only(items, "accuracy-by-model")
    assert isinstance(item, Figure)
    by_label = item.data.set_index("model")
    models = scored(studies)
    assert by_label.index.tolist() == [model.label for model in models]
    scores = [model.model.metrics["score"] for model in models]
    assert scores == sorted(scores, reverse=True)
    for model in models:
        row = by_label.loc[model.label]
        for split in ("tune", "valid", "test"):
            stored = model.model.metrics["splits"][split]
            assert row[f"{split}_balanced_accuracy"] == stored["balanced_accuracy"]
            assert row[f"{split}_accuracy"] == stored["accuracy"]
        low, high = model.model.metrics["splits"]["test"]["balanced_accuracy_interval"]
        assert row[["test_balanced_accuracy_low", "test_balanced_accuracy_high"]].tolist() == pytest.approx([low, high])
        true = scoring.codes(model.test["true"], list(ODD))
        right = (model.test["true"] == model.test["predicted"]).to_numpy(dtype=float)
        groups = model.test["group"].to_numpy(dtype=str)
        expected = scoring.interval(true, groups, right, balanced=False)
        assert row[["test_accuracy_low", "test_accuracy_high"]].tolist() == pytest.approx(expected)
        assert row["kind"] == ("published" if model.model.baseline else "chosen")
    assert by_label["balanced_accuracy_by_chance"].tolist() == [1 / 4] * len(models)


def test_confusion_and_report_are_those_of_the_predictions(studies: Studies, items: dict[str, Item]) -> None:
    for model in scored(studies):
        true, predicted = model.test["true"], model.test["predicted"]
        confusion, report = items[model.name("confusion")], items[model.name("classification-report")]
        assert isinstance(confusion, Figure) and isinstance(report, Table)
        counts = sk.confusion_matrix(true, predicted, labels=ODD)
        shares = sk.confusion_matrix(true, predicted, labels=ODD, normalize="true")
        assert confusion.data["true"].tolist() == np.repeat(ODD, 4).tolist()
        assert confusion.data["predicted"].tolist() == np.tile(ODD, 4).tolist()
        assert (confusion.data["clips"].to_numpy().reshape(4, 4) == counts).all()
        left, right = confusion.draw(confusion.data).axes
        assert (left.images[0].get_array() == counts).all()
        assert np.asarray(right.images[0].get_array()) == pytest.approx(shares * 100)
        assert confusion.data["share"].to_numpy().reshape(4, 4) == pytest.approx(shares)
        expected = sk.classification_report(true, predicted, labels=ODD, output_dict=True, zero_division=0)
        table = report.data.set_index("class")
        for name, theirs in (*((name, name) for name in ODD), ("macro average", "macro avg")):
            values = [expected[theirs][key] for key in ("precision", "recall", "f1-score", "support")]
            assert table.loc[name, ["precision", "recall", "F1", "clips"]].tolist() == pytest.approx(values)
        stored = model.model.metrics["splits"]["test"]
        assert table.loc["balanced accuracy", "recall"] == pytest.approx(stored["balanced_accuracy"])
        assert table.loc["accuracy", "recall"] == pytest.approx(stored["accuracy"])
        assert table.loc["macro average", "F1"] == pytest.approx(stored["macro_f1"])
        assert report.marked == {4, 5, 6, 7}


def test_a_stored_score_that_disagrees_is_named(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "mlp", trials=4) / "best"
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["splits"]["test"]["balanced_accuracy"] += 0.01
    (folder / "metrics.json").write_text(json.dumps(metrics))
    warnings = overview.warnings(load_studies(tmp_path))
    assert isinstance(warnings, Table)
    assert warnings.data["warning"].str.contains("must be that of its stored predictions").sum() == 1


def test_learning_curves_are_the_journals(studies: Studies, items: dict[str, Item]) -> None:
    model = scored(studies)[0]
    item = items[model.name("learning-curves")]
    assert isinstance(item, Figure)
    epochs = studies.epochs
    own = epochs[(epochs["study"] == model.model.study) & (epochs["trial"] == model.model.trial)]
    for column in ("epoch", "train_accuracy", "tune_accuracy", "train_cross_entropy", "tune_cross_entropy"):
        assert item.data[column].tolist() == own[column].tolist()
    assert item.data.loc[item.data["best"], "epoch"].tolist() == [model.model.metrics["best_epoch"]]


def test_times(studies: Studies, items: dict[str, Item]) -> None:
    item = only(items, "times-by-model")
    assert isinstance(item, Figure)
    for row, model in zip(item.data.itertuples(), scored(studies), strict=True):
        assert row.seconds_to_best_epoch == 9 * model.model.metrics["best_epoch"]
        assert row.prediction_ms_per_clip == 0.5 + model.model.trial
    assert "a recording by itself, features included" in item.caption, "as trainables.saved.seconds_per_clip measures"
    style.svg(item.draw(item.data.assign(prediction_ms_per_clip=0.0, seconds_to_best_epoch=np.nan)))


def test_tables_of_layers_and_values(studies: Studies, items: dict[str, Item]) -> None:
    published = next(model for model in scored(studies) if model.model.baseline == "mlp-genre-hinge")
    layers, values = items[published.name("layers")], items[published.name("hyperparameters")]
    assert isinstance(layers, Table) and isinstance(values, Table)
    assert layers.data["output_shape"].tolist() == ["64", "64", "4"]
    assert "705 parameters, 705 of them trained" in layers.caption
    by_name = values.data.set_index("name")
    assert "or the published recipe (Urbaitis and Payeli, " in values.caption
    assert by_name.loc["loss"].tolist() == ["hinge", "published", "ce | hinge | kl", ""]
    assert by_name.loc["hidden_2"].tolist() == [512, "published", "16 … 1024 (log)", "depth 2 or 3 or 4"]
    settings = {**published.study.space.settings}
    recipe = next(b for b in published.study.space.baselines if b.name == "mlp-genre-hinge").settings
    assert len(by_name) == len(published.model.metrics["params"]) + len(settings | dict(recipe))
    for name, value in (settings | dict(recipe)).items():
        origin = "published" if name in recipe else "setting"
        assert by_name.loc[name].tolist() == [value, origin, "not searched", ""]


def test_without_layers_or_labelled_clips_a_sentence_stands_there(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "mlp", trials=1, baselines=False, max_epochs=1) / "best"
    config = json.loads((folder / "config.json").read_text())
    del config["layers"]
    (folder / "config.json").write_text(json.dumps(config))
    table = pd.read_parquet(folder / "predictions.parquet")
    table[table["split"] != "test"].to_parquet(folder / "predictions.parquet")
    found = list(evaluation.items(load_studies(tmp_path)))
    missing = {item.title: item.reason for item in found if isinstance(item, Missing)}
    assert set(missing) == {"Predictions of mlp default", "Layers of mlp default"}
    assert "before layers were stored" in missing["Layers of mlp default"]
    for item in found:
        if isinstance(item, Figure):
            style.png(item.draw(item.data))


def test_probabilities_that_are_no_numbers(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "mlp", trials=1, baselines=False) / "best"
    table = pd.read_parquet(folder / "predictions.parquet")
    table[[c for c in table if c.startswith("p_")]] = np.nan
    table.to_parquet(folder / "predictions.parquet")
    found = list(evaluation.items(load_studies(tmp_path)))
    assert [item.title for item in found if isinstance(item, Missing)] == ["Reliability of mlp default"]


@pytest.mark.parametrize("count", [2, 12, 13, 20, 21, 60, 61])
def test_a_confusion_matrix_of_any_size_is_drawn_with_all_labels_inside(count: int) -> None:
    classes = [f"W{n} " + "W" * 20 for n in range(count)]
    clips = np.eye(count) * 3
    clips[-1, -1] = 0  # a class without clips, too
    pairs = pd.MultiIndex.from_product([classes, classes], names=["true", "predicted"]).to_frame(index=False)
    support = np.repeat(clips.sum(1), count)
    share = np.where(support > 0, clips.ravel() / np.maximum(support, 1), np.nan)
    drawing = evaluation._draw_confusion(pairs.assign(clips=clips.ravel(), share=share))
    drawing.draw_without_rendering()
    page = drawing.bbox
    texts = [text for axes in drawing.axes for text in (*axes.texts, axes.xaxis.label, axes.yaxis.label, axes.title)]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1, text


def test_no_study_scored(tmp_path: Path) -> None:
    make_study(tmp_path / "going", trials=2, finished=False)
    found = list(evaluation.items(load_studies(tmp_path)))
    assert [type(item) for item in found] == [Missing]


def test_labels_are_unique_and_models_on_other_clips_apart(tmp_path: Path) -> None:
    make_study(tmp_path / "a" / "mlp", trials=4)
    make_study(tmp_path / "b" / "mlp", trials=4, clips=8)
    studies = load_studies(tmp_path / "a", tmp_path / "b")
    found = labels(studies.models)
    assert len(set(found)) == len(found) == 6 and max(map(len, found)) <= 34
    assert [len(group) for group in same_clips(scored(studies))] == [3, 3]
    figures = [item.name for item in evaluation.items(studies) if item.name.startswith("accuracy-by-model")]
    assert len(figures) == len(set(figures)) == 2
