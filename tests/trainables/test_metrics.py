"""Scores from a confusion matrix agree with scikit-learn's on the predictions behind it."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from trainables.metrics import Scores, confusion_matrix, scores


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_scores_agree_with_scikit_learn() -> None:
    """150 random cases of 1 to 40 clips in 2 to 9 classes, most of them with classes absent on either side."""
    rng = np.random.default_rng(0)
    absent_in_truth = absent_in_predictions = predicted_but_absent = 0
    for _ in range(150):
        classes, clips = rng.integers(2, 10), rng.integers(1, 41)
        odds = rng.dirichlet(np.full(classes, 0.5), size=2)
        true, predicted = (rng.choice(classes, size=clips, p=p) for p in odds)
        predicted = np.where(rng.random(clips) < rng.random(), true, predicted)
        present = np.unique(true)
        absent_in_truth += len(present) < classes
        absent_in_predictions += len(set(present) - set(predicted)) > 0
        predicted_but_absent += len(set(predicted) - set(present)) > 0

        table = confusion_matrix(true, predicted, int(classes))
        np.testing.assert_array_equal(table, sklearn_metrics.confusion_matrix(true, predicted, labels=range(classes)))
        found = scores(table)
        assert found.accuracy == pytest.approx(sklearn_metrics.accuracy_score(true, predicted))
        assert found.balanced_accuracy == pytest.approx(sklearn_metrics.balanced_accuracy_score(true, predicted))
        macro_f1 = sklearn_metrics.f1_score(true, predicted, labels=present, average="macro", zero_division=0)
        assert found.macro_f1 == pytest.approx(macro_f1)
    assert min(absent_in_truth, absent_in_predictions, predicted_but_absent) > 40


def test_scores_by_hand() -> None:
    """Recalls 3/4 and 1/2; class 2 is absent, but takes a prediction. F1: 6/(4+4) and 2/(2+1)."""
    table = np.array([[3, 0, 1], [1, 1, 0], [0, 0, 0]])
    found = scores(table)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found.macro_f1 == pytest.approx((6 / 8 + 2 / 3) / 2)


def test_extremes() -> None:
    assert scores(np.diag([1, 5, 0])) == Scores(1.0, 1.0, 1.0)
    assert scores(np.array([[0, 4], [1, 0]])) == Scores(0.0, 0.0, 0.0)
    assert scores(np.array([[0, 0], [0, 1]])) == Scores(1.0, 1.0, 1.0)


def test_the_majority_class_has_a_balanced_accuracy_of_chance() -> None:
    true = np.array([0] * 90 + [1] * 9 + [2])
    found = scores(confusion_matrix(true, np.zeros(100, dtype=np.int64), 3))
    assert (found.accuracy, found.balanced_accuracy) == pytest.approx((0.9, 1 / 3))


def test_rows_of_the_confusion_matrix_are_the_truth() -> None:
    table = confusion_matrix(np.array([0, 0, 2]), np.array([1, 1, 0]), 3)
    np.testing.assert_array_equal(table, [[0, 2, 0], [0, 0, 0], [1, 0, 0]])
