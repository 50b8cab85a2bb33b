"""Scores from a confusion matrix, so that an epoch needs one synchronisation with the device.

They agree with scikit-learn's on the predictions behind the matrix (the tests hold them to it).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Scores:
    """Accuracy, balanced accuracy and macro-F1, each in [0, 1]; the last two over the classes present."""

    accuracy: float
    balanced_accuracy: float
    macro_f1: float


def scores(confusion: npt.NDArray[np.int64]) -> Scores:
    """Scores of a confusion matrix `(true class, predicted class)` that counts at least one example."""
    confusion = confusion.astype(np.float64)
    hits = np.diag(confusion)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    present = support > 0
    recall = hits[present] / support[present]
    f1 = 2 * hits[present] / (support[present] + predicted[present])
    return Scores(float(hits.sum() / support.sum()), float(recall.mean()), float(f1.mean()))


def confusion_matrix(
    targets: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], n_classes: int
) -> npt.NDArray[np.int64]:
    """Counts `(true class, predicted class)`."""
    flat = np.bincount(targets * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes)
