"""Numbers from stored predictions against scikit-learn, `trainables.scoring` and hand-worked ones."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from analysis import predictions
from tests.analysis.made import predictions as made_predictions
from trainables import scoring

NAMES = ("<b>", "a/b", "$x$", "accuracy")


def rows(true: list[str], predicted: list[str], classes: tuple[str, ...] = NAMES, group: str = "g") -> pd.DataFrame:
    """One split; each clip gives its predicted class 0.6 and the others equal shares."""
    rest = 0.4 / max(len(classes) - 1, 1)
    frame = pd.DataFrame({"name": [f"c{n:03d}" for n in range(len(true))], "split": "test"})
    frame = frame.assign(group=[f"{group}{n % 3}-{t}" for n, t in enumerate(true)], true=true, predicted=predicted)
    return frame.assign(**{f"p_{c}": [0.6 if c == p else rest for p in predicted] for c in classes})


@pytest.fixture(scope="module")
def many() -> pd.DataFrame:
    return predictions.part(made_predictions(0.6, tuple(f"class {n}" for n in range(12)), 9, seed=3), "test")


def test_confusion_is_sklearns(many: pd.DataFrame) -> None:
    classes = scoring.classes_of(many)
    expected = sk.confusion_matrix(many["true"], many["predicted"], labels=classes)
    found = predictions.confusion(many)
    assert (found.to_numpy() == expected).all()
    assert list(found.index) == list(found.columns) == classes


@pytest.mark.parametrize("case", ["all", "never predicted", "without clips", "neither"])
def test_report_is_sklearns(case: str, many: pd.DataFrame) -> None:
    part = {
        "all": many,
        "never predicted": rows(["<b>", "<b>", "a/b", "$x$", "accuracy"], ["<b>", "a/b", "a/b", "<b>", "accuracy"]),
        "without clips": rows(["<b>", "<b>", "a/b", "accuracy"], ["<b>", "$x$", "a/b", "accuracy"]),
        "neither": rows(["<b>", "a/b", "a/b", "<b>"], ["<b>", "a/b", "<b>", "<b>"]),
    }[case]
    found = predictions.classification_report(part)
    classes = scoring.classes_of(part)
    present = [c for c in classes if c in set(part["true"])]
    true, predicted = part["true"], part["predicted"]
    expected = sk.precision_recall_fscore_support(true, predicted, labels=present, zero_division=0)
    by_class = found[~found["average"]].set_index("class")
    assert list(by_class.index) == classes
    for name, values in zip(present, zip(*expected, strict=True), strict=True):
        assert by_class.loc[name, ["precision", "recall", "f1", "clips"]].tolist() == pytest.approx(values)
    absent = by_class.loc[[c for c in classes if c not in present]]
    assert absent[["recall", "f1"]].isna().all(axis=None) and (absent["clips"] == 0).all()
    assert (absent["precision"] == 0).all()
    means = found[found["average"]].set_index("class")
    for average in ("macro", "weighted"):
        values = sk.precision_recall_fscore_support(
            true, predicted, labels=present, zero_division=0, average=average
        )  # over the classes that have clips, as in metrics.json
        assert means.loc[f"{average} average", ["precision", "recall", "f1"]].tolist() == pytest.approx(values[:3])
    assert means.loc["accuracy", "recall"] == pytest.approx(sk.accuracy_score(true, predicted))
    balanced = np.mean([(part["predicted"] == c)[part["true"] == c].mean() for c in present])
    assert means.loc["balanced accuracy", "recall"] == pytest.approx(balanced)
    assert (means["clips"] == len(part)).all()


def test_overall_is_what_the_search_stored(many: pd.DataFrame) -> None:
    stored = scoring.summarise(many)["test"]
    found = predictions.overall(many)
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert getattr(found, name) == stored[name]


def test_reliability_by_hand() -> None:
    part = rows(["<b>"] * 4, ["<b>", "<b>", "a/b", "a/b"], ("<b>", "a/b"))
    part["p_<b>"] = [0.95, 0.91, 0.4, 0.30]
    part["p_a/b"] = [0.05, 0.09, 0.6, 0.70]
    found = predictions.reliability(part)
    assert found["clips"].tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 2]  # 0.6 is the upper end of its bin
    assert found["confidence"].tolist()[5:7] == pytest.approx([0.6, 0.7])
    assert found["confidence"][9] == pytest.approx(0.93)
    assert found["accuracy"].tolist()[5:7] == [0, 0] and found["accuracy"][9] == 1
    assert found.loc[0, ["confidence", "accuracy"]].isna().all()
    assert predictions.calibration_error(found) == pytest.approx((0.6 + 0.7 + 2 * 0.07) / 4)


def test_reliability_agrees_with_a_loop_and_leaves_out_what_is_no_number(many: pd.DataFrame) -> None:
    part = many.copy()
    part.loc[:4, [c for c in part if c.startswith("p_")]] = np.nan
    found = predictions.reliability(part)
    confidence, right = predictions.chances(part).max(1), predictions.right(part)
    assert found["clips"].sum() == len(part) - 5
    for row in found.itertuples():
        inside = (confidence > row.low) & (confidence <= row.high)
        assert row.clips == inside.sum()
        if row.clips:
            assert row.confidence == pytest.approx(confidence[inside].mean())
            assert row.accuracy == pytest.approx(right[inside].mean())
    nothing = predictions.reliability(part.head(5))
    assert nothing["clips"].sum() == 0 and np.isnan(predictions.calibration_error(nothing))


def test_margins_by_hand() -> None:
    part = rows(["<b>", "a/b", "$x$"], ["<b>", "<b>", "$x$"], ("<b>", "a/b", "$x$"))
    assert predictions.margins(part).tolist() == pytest.approx([0.4, -0.4, 0.4])
    assert predictions.right_chances(part).tolist() == pytest.approx([0.6, 0.2, 0.6])
    alone = rows(["<b>"], ["<b>"], ("<b>",))
    assert predictions.margins(alone).tolist() == [0.6]


@pytest.mark.parametrize("balanced", [False, True])
def test_interval_is_that_of_scoring(many: pd.DataFrame, balanced: bool) -> None:
    part = many.drop(index=[0, 1, 2, 30])  # classes of unequal size
    true = scoring.codes(part["true"], scoring.classes_of(part))
    groups, right = part["group"].to_numpy(dtype=str), predictions.right(part)
    expected = scoring.interval(true, groups, right, balanced=balanced)
    assert predictions.interval(part, right, balanced=balanced) == pytest.approx(expected, abs=1e-12)


def test_no_interval_where_a_class_has_one_clip() -> None:
    part = rows(["<b>", "<b>", "a/b"], ["<b>", "<b>", "a/b"])
    assert predictions.interval(part, predictions.right(part), balanced=True) is None
    assert predictions.interval(part.head(0), np.zeros(0), balanced=False) is None


def test_disagreement_by_hand() -> None:
    true = ["<b>", "<b>", "<b>", "a/b", "a/b"]
    one = rows(true, ["<b>", "<b>", "a/b", "a/b", "$x$"])
    two = rows(true, ["<b>", "a/b", "a/b", "<b>", "a/b"])
    found = predictions.disagreement(one, two)
    assert (found.both, found.only_first, found.only_second, found.neither, found.same_answer) == (1, 2, 1, 1, 2)
    assert found.difference == pytest.approx((2 / 3 + 1 / 2) / 2 - (1 / 3 + 1 / 2) / 2)
    table = predictions.recall_differences(one, two)
    assert table["class"].tolist() == ["<b>", "a/b"] and table["clips"].tolist() == [3, 2]
    assert table["difference"].tolist() == pytest.approx([1 / 3, 0])
    assert table["only_first"].tolist() == [1, 1] and table["only_second"].tolist() == [0, 1]
    clips = predictions.differing(one, two)
    assert clips["name"].tolist() == ["c001", "c003", "c004"]
    assert clips["gap"].tolist() == pytest.approx([0.6 - 0.4 / 3, 0.6 - 0.4 / 3, 0.4 / 3 - 0.6])


def test_difference_is_that_of_the_search(many: pd.DataFrame) -> None:
    table = made_predictions(0.4, tuple(f"class {n}" for n in range(12)), 9, seed=8)
    other = predictions.part(table, "test")
    expected = scoring.difference(many, other, "test")
    found = predictions.disagreement(many, other)
    assert found.difference == pytest.approx(expected["difference"], abs=1e-12)
    assert found.interval == pytest.approx(expected["interval"], abs=1e-12)
    assert predictions.disagreement(other, many).difference == pytest.approx(-expected["difference"])
    assert predictions.disagreement(many, many).difference == 0
    assert predictions.differing(many, many).empty


def test_models_on_other_clips_are_not_compared(many: pd.DataFrame) -> None:
    other = many.assign(name=[f"x{name}" for name in many["name"]])
    for compare in (predictions.disagreement, predictions.differing, predictions.recall_differences):
        with pytest.raises(ValueError, match="same clips"):
            compare(many, other)


def test_a_part_is_in_the_order_of_names_without_unlabelled_clips() -> None:
    table = rows(["<b>", "a/b", ""], ["<b>", "a/b", "a/b"])
    shuffled = pd.concat([table.iloc[::-1], table.assign(split="tune")])
    found = predictions.part(shuffled, "test")
    assert found["name"].tolist() == ["c000", "c001"]
    assert predictions.clips_key(found) == predictions.clips_key(table.head(2))
