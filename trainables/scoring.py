"""Every number computed from stored predictions, with its uncertainty. Needs no Torch.

A table of predictions has a row per clip: `name`, `split`, `group`, `true`, `predicted` and one `p_CLASS` for each
class (see `evaluate.predict`).
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from trainables.metrics import confusion_matrix, scores

_RESAMPLES, _TRIES = 2000, 50
_SMALLEST = np.finfo(np.float32).tiny

Rows = npt.NDArray[np.int64]


def summarise(predictions: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Per split: clips, groups, accuracy, balanced accuracy, macro-F1, cross-entropy.

    `balanced_accuracy_interval` is a 95 % percentile interval from resampling groups and then clips within them:
    clips of one instrument are not independent, so resampling clips alone would promise too much. It is None where
    a class has a single clip, which tells nothing of its spread.
    """
    classes = classes_of(predictions)
    found = {}
    for name, part in predictions.sort_values("name").groupby("split", sort=False):
        true, predicted = (codes(part[column], classes) for column in ("true", "predicted"))
        chances = part[[f"p_{c}" for c in classes]].to_numpy()[np.arange(len(part)), true]
        right = (true == predicted).astype(np.float64)
        found[str(name)] = {
            "clips": len(part),
            "groups": part["group"].nunique(),
            **asdict(scores(confusion_matrix(true, predicted, len(classes)))),
            "cross_entropy": float(-np.log(np.maximum(chances, _SMALLEST)).mean()),
            "balanced_accuracy_interval": interval(true, part["group"].to_numpy(dtype=str), right, seed=seed),
        }
    return found


def difference(one: pd.DataFrame, other: pd.DataFrame, split: str, seed: int = 0) -> dict[str, Any]:
    """How much better `one` does than `other` on a split: balanced accuracies' difference and its 95 % interval.

    Paired: both models are scored on the same resampled clips. The interval is None as in `summarise`.
    """
    classes = classes_of(one)
    parts = [frame[frame["split"] == split].sort_values("name") for frame in (one, other)]
    true = codes(parts[0]["true"], classes)
    groups = parts[0]["group"].to_numpy(dtype=str)
    # Both have the same clips in each class, so the difference of the recalls is the recall of the differences.
    first, second = ((codes(part["predicted"], classes) == true).astype(np.float64) for part in parts)
    lead = first - second
    return {
        "difference": mean_recall(true, lead),
        "interval": interval(true, groups, lead, seed=seed),
        "groups": len(set(groups)),
    }


def mean_recall(true: Rows, right: npt.NDArray[np.float64]) -> float:
    """The mean over the classes present of the mean of `right`: balanced accuracy, or a difference of two."""
    support = np.bincount(true)
    return float((np.bincount(true, weights=right)[support > 0] / support[support > 0]).mean())


def interval(
    true: Rows,
    groups: npt.NDArray[np.str_],
    right: npt.NDArray[np.float64],
    *,
    seed: int = 0,
    balanced: bool = True,
) -> list[float] | None:
    """The 95 % percentile interval of the mean of `right` over resampled rows; None where a class has a single clip.

    `balanced` takes the mean of the classes' means, which is balanced accuracy where `right` says what was
    recognised; without it the mean over all rows is taken, accuracy.
    """
    if (np.bincount(true) == 1).any():
        return None
    found = [
        mean_recall(true[rows], right[rows]) if balanced else float(right[rows].mean())
        for rows in resamples(true, groups, seed)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return [float(low), float(high)]


def resamples(true: Rows, groups: npt.NDArray[np.str_], seed: int) -> Iterator[Rows]:
    """Row numbers of resampled data: groups are drawn within each class, then clips within each drawn group.

    Drawing groups within the class keeps every class present; drawing clips within the group leaves some spread
    to a class of a single group, though less than new groups would bring. Where groups hold clips of several classes,
    as speakers do who say several words, they are drawn from among all groups of these classes: within one class, what
    one group differs from another by would be missing. What comes out without a class is drawn again.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    # The groups of a class side by side, and for each place where its class begins and how many groups it has: one
    # random number a place then draws all classes at once, which for 60 classes is ten times as fast as one by one.
    stratum = _strata(np.repeat(np.arange(len(sizes)), sizes), true[order])
    members = np.argsort(stratum, kind="stable")
    _, firsts, counts = np.unique(stratum[members], return_index=True, return_counts=True)
    first, count = np.repeat(firsts, counts), np.repeat(counts, counts)
    classes = len(np.unique(true))
    for _ in range(_RESAMPLES):
        for _ in range(_TRIES):
            drawn = members[first + (rng.random(len(members)) * count).astype(np.int64)]
            each = np.repeat(drawn, sizes[drawn])
            rows: Rows = order[starts[each] + (rng.random(len(each)) * sizes[each]).astype(np.int64)]
            if np.count_nonzero(np.bincount(true[rows])) == classes:
                break
        yield rows


def _strata(groups: Rows, classes: Rows) -> Rows:
    """Of each group, numbered from 0, the first of the classes that groups join to its own, from rows of both."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_groups, n_classes = int(groups.max()) + 1, int(classes.max()) + 1
    ends = (groups, n_groups + classes)
    edges = coo_array((np.ones(len(groups)), ends), shape=(n_groups + n_classes,) * 2)
    _, part = connected_components(edges, directed=False)
    _, first = np.unique(part[n_groups:], return_index=True)  # every part has a class, so they are all there
    found: Rows = first[part[:n_groups]]
    return found


def classes_of(predictions: pd.DataFrame) -> list[str]:
    """The classes of a table of predictions, in their order."""
    return [column[2:] for column in predictions.columns if column.startswith("p_")]


def codes(column: "pd.Series[str]", classes: list[str]) -> npt.NDArray[np.int64]:
    """The classes of a column as numbers; -1 for what is none of them."""
    return pd.Categorical(column, categories=classes).codes.astype(np.int64)
