"""What stored predictions say: confusion, report, calibration, margins, intervals, disagreements.

All functions are pure and take the rows of one split, as `part` gives them: a row per clip with `name`, `group`,
`true`, `predicted` and one `p_CLASS` per class. The numbers agree with scikit-learn's (the tests hold them to it).
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainables import scoring
from trainables.metrics import Scores, confusion_matrix, scores
from trainables.scoring import classes_of, codes

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]


def part(predictions: pd.DataFrame, split: str) -> pd.DataFrame:
    """The clips of a split whose class is known, in the order of their names."""
    known = predictions["split"].eq(split) & predictions["true"].isin(classes_of(predictions))
    return predictions[known].sort_values("name", kind="stable", ignore_index=True)


def clips_key(rows: pd.DataFrame) -> str:
    """A digest of a split's clips, groups and classes: models may be compared where it is the same."""
    clips = pd.util.hash_pandas_object(rows[["name", "group", "true"]].astype(object), index=False)
    return hashlib.sha256(clips.to_numpy().tobytes() + repr(classes_of(rows)).encode()).hexdigest()


def chances(rows: pd.DataFrame) -> Floats:
    """The probabilities `(clips, classes)`."""
    return rows[[f"p_{name}" for name in classes_of(rows)]].to_numpy(dtype=np.float64)


def right(rows: pd.DataFrame) -> Floats:
    """1 for each clip that was recognised, else 0."""
    return np.asarray(rows["predicted"].eq(rows["true"]), dtype=np.float64)


def confusion(rows: pd.DataFrame) -> pd.DataFrame:
    """Counts: a row per true class, a column per predicted one, all classes in their order."""
    classes = classes_of(rows)
    counts = confusion_matrix(codes(rows["true"], classes), codes(rows["predicted"], classes), len(classes))
    return pd.DataFrame(counts, index=classes, columns=classes)


def overall(rows: pd.DataFrame) -> Scores:
    """Accuracy, balanced accuracy and macro-F1; the last two over the classes that have clips."""
    return scores(confusion(rows).to_numpy())


def classification_report(rows: pd.DataFrame) -> pd.DataFrame:
    """Per class, then over all: `class`, `precision`, `recall`, `f1`, `clips`, `average` (whether it is a summary).

    A class that was never predicted has precision 0. One without clips has neither recall nor F1 and is in no average,
    so the macro average's recall is the balanced accuracy, and the weighted average's the accuracy.
    """
    counts = confusion(rows).to_numpy(dtype=np.float64)
    hits, support, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    present = support > 0
    table = pd.DataFrame(
        {
            "class": classes_of(rows),
            "precision": hits / np.maximum(predicted, 1),
            "recall": np.where(present, hits / np.maximum(support, 1), np.nan),
            "f1": np.where(present, 2 * hits / np.maximum(support + predicted, 1), np.nan),
            "clips": support.astype(int),
            "average": False,
        }
    )
    known = table.loc[present, ["precision", "recall", "f1"]].to_numpy(dtype=np.float64)
    means = [
        ("accuracy", [np.nan, hits.sum() / support.sum(), np.nan]),
        ("balanced accuracy", [np.nan, known[:, 1].mean(), np.nan]),
        ("macro average", known.mean(0)),
        ("weighted average", np.average(known, axis=0, weights=support[present])),
    ]
    summary = pd.DataFrame([[name, *values] for name, values in means], columns=["class", "precision", "recall", "f1"])
    return pd.concat([table, summary.assign(clips=len(rows), average=True)], ignore_index=True)


def reliability(rows: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Per bin of confidence, the largest probability: `low`, `high`, `clips`, `confidence` (mean), `accuracy`.

    Bins are equally wide and hold their upper end, as in Guo et al. (2017). Clips without a probability are in none.
    """
    confidence = chances(rows).max(1)
    known = np.isfinite(confidence)
    place = np.clip(np.ceil(confidence[known] * bins).astype(int) - 1, 0, bins - 1)
    clips = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(
            {
                "low": np.arange(bins) / bins,
                "high": np.arange(1, bins + 1) / bins,
                "clips": clips,
                "confidence": np.bincount(place, confidence[known], bins) / clips,
                "accuracy": np.bincount(place, right(rows)[known], bins) / clips,
            }
        )


def calibration_error(bins: pd.DataFrame) -> float:
    """The expected calibration error: the mean distance of accuracy and confidence over bins, weighted by clips."""
    gaps = (bins["accuracy"] - bins["confidence"]).abs()
    clips = int(bins["clips"].sum())
    return float((gaps * bins["clips"]).sum() / clips) if clips else float("nan")


def right_chances(rows: pd.DataFrame) -> Floats:
    """The probability that each clip's right class was given."""
    return chances(rows)[np.arange(len(rows)), codes(rows["true"], classes_of(rows))]


def margins(rows: pd.DataFrame) -> "pd.Series[float]":
    """The right class's probability less the largest of the others, in [-1, 1]; 0 is the decision boundary."""
    others = chances(rows).copy()  # which may be a view of the table
    others[np.arange(len(rows)), codes(rows["true"], classes_of(rows))] = -np.inf
    most = others.max(1) if others.shape[1] > 1 else np.zeros(len(rows))
    return pd.Series(right_chances(rows) - most, index=rows.index, name="margin")


def interval(rows: pd.DataFrame, values: Floats, *, balanced: bool) -> Interval | None:
    """The 95 % interval of the mean of `values`, one per clip, from resampled groups: `scoring.interval`, but faster.

    The resamples are those of `scoring.interval`, drawn once for all models that were scored on the same clips.
    """
    true = codes(rows["true"], classes_of(rows))
    if not len(rows) or (np.bincount(true) == 1).any():
        return None
    draws = _draws(true.tobytes(), tuple(rows["group"].astype(str)))
    hits = draws.sums(values)
    if balanced:
        with np.errstate(invalid="ignore"):
            found = np.nanmean(hits / draws.support, axis=1)
    else:
        found = hits.sum(1) / draws.support.sum(1)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class _Draws:
    """How often each clip was drawn, `(resamples, clips)` with the clips of a class side by side."""

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.float32]  # whole numbers, exact in this type, with which products are quick
    support: Floats

    def sums(self, values: Floats) -> Floats:
        """The sums of the drawn clips' values by class, `(resamples, classes)`."""
        ends = [*self.starts[1:], len(self.order)]
        ordered = values[self.order].astype(np.float32)
        parts = [self.counts[:, a:b] @ ordered[a:b] for a, b in zip(self.starts, ends, strict=True)]
        return np.stack(parts, axis=1).astype(np.float64)


@lru_cache(maxsize=4)
def _draws(true_bytes: bytes, groups: tuple[str, ...]) -> _Draws:
    true = np.frombuffer(true_bytes, dtype=np.int64)
    drawn = scoring.resamples(true, np.array(groups), seed=0)
    order = np.argsort(true, kind="stable")
    _, starts = np.unique(true[order], return_index=True)
    counts = np.stack([np.bincount(rows, minlength=len(true))[order].astype(np.float32) for rows in drawn])
    return _Draws(order, starts, counts, np.add.reduceat(counts, starts, axis=1, dtype=np.float64))


@dataclass(frozen=True)
class Disagreement:
    """Two models on the same clips: how many each recognised, and how much better the first is.

    `difference` is of balanced accuracies, positive where the first is better; its interval is paired, both models
    being scored on the same resampled clips. It is None where a class has a single clip.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    same_answer: int
    difference: float
    interval: Interval | None


def disagreement(first: pd.DataFrame, second: pd.DataFrame) -> Disagreement:
    """Two models' parts of the same split compared; they must hold the same clips."""
    _require_same(first, second)
    one, two = right(first), right(second)
    return Disagreement(
        both=int((one * two).sum()),
        only_first=int((one * (1 - two)).sum()),
        only_second=int((two * (1 - one)).sum()),
        neither=int(((1 - one) * (1 - two)).sum()),
        same_answer=int(first["predicted"].eq(second["predicted"]).sum()),
        difference=overall(first).balanced_accuracy - overall(second).balanced_accuracy,
        interval=interval(first, one - two, balanced=True),
    )


def differing(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The clips to which two models gave different answers, those with the largest gap first.

    Columns: `name`, `group`, `true`, `first`, `second` (their answers), `p_first`, `p_second` (the right class's
    probabilities) and `gap`, their difference.
    """
    _require_same(first, second)
    table = first[["name", "group", "true"]].assign(
        first=first["predicted"],
        second=second["predicted"],
        p_first=right_chances(first),
        p_second=right_chances(second),
    )
    table["gap"] = table["p_first"] - table["p_second"]
    table = table[table["first"] != table["second"]]
    order = table.assign(size=-table["gap"].abs()).sort_values(["size", "name"], kind="stable").index
    return table.loc[order].reset_index(drop=True)


def recall_differences(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Per class with clips: `class`, `clips`, recalls `first` and `second`, `difference`, and who alone was right."""
    _require_same(first, second)
    one, two = right(first), right(second)
    table = pd.DataFrame(
        {"class": first["true"], "clips": 1, "first": one, "second": two, "difference": one - two}
    ).assign(only_first=one * (1 - two), only_second=two * (1 - one))
    means = table.groupby("class", sort=False)
    found = means[["first", "second", "difference"]].mean()
    counts = means[["clips", "only_first", "only_second"]].sum().astype(int)
    present = [name for name in classes_of(first) if name in found.index]
    columns = ["clips", "first", "second", "difference", "only_first", "only_second"]
    return found.join(counts).loc[present, columns].reset_index()


def _require_same(first: pd.DataFrame, second: pd.DataFrame) -> None:
    if clips_key(first) != clips_key(second):
        raise ValueError("Two models must be compared on the same clips, but these were scored on different ones.")
