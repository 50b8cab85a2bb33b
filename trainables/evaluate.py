"""Scoring a trained model: per-clip predictions, and every number computed from them."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

from trainables import checkpoint, data, loop
from trainables.config import TrialConfig
from trainables.data import Part
from trainables.metrics import confusion_matrix, scores

_RESAMPLES = 2000

Rows = npt.NDArray[np.int64]
_SMALLEST = np.finfo(np.float32).tiny


def predict(config: TrialConfig, weights: Path, splits: Iterable[str]) -> pd.DataFrame:
    """Predictions of a trained model for whole splits, one row per clip; also for clips "unlabelled".

    Where clips are cut into segments, their probabilities are the mean over the segments. Columns: `name`, `split`,
    `group`, `true`, `predicted` and one `p_CLASS` with the probability of each class.
    """
    torch.set_num_threads(config.threads)
    device = data.choose_device()
    dataset = data.load(config.data)
    classes = dataset.split.classes
    shape = data.input_shape(dataset, config.features)
    model = loop.build(loop.without_initial_weights(config), shape, len(classes))
    checkpoint.load_weights(weights, model)
    model.to(device).eval()
    frames = []
    for name in splits:
        rows = dataset.rows(name)
        chances = _chances(model, data.part(dataset, name, config.features, device), len(rows), shape)
        labels = dataset.split.labels[rows]
        named = np.array([*classes, ""], dtype=object)  # a label of -1, unlabelled, is the last one
        columns: dict[str, Any] = {
            "name": dataset.store.clips["name"].to_numpy()[rows],
            "split": name,
            "group": dataset.split.groups[rows],
            "true": named[labels],
            "predicted": named[chances.argmax(1)],
        }
        frames.append(pd.DataFrame({**columns, **{f"p_{c}": chances[:, i] for i, c in enumerate(classes)}}))
    return pd.concat(frames, ignore_index=True)


def _chances(model: nn.Module, part: Part, clips: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Probabilities `(clips, classes)`."""
    with torch.inference_mode():
        batches = torch.arange(len(part.labels), device=part.labels.device).split(data.evaluation_batch(shape))
        found = torch.cat([loop.forward(model, part.fetch(batch)).softmax(1) for batch in batches])
        if part.clips is not None:
            sums = torch.zeros(clips, found.shape[1], device=found.device).index_add_(0, part.clips, found)
            found = sums / torch.bincount(part.clips, minlength=clips)[:, None]
        chances: npt.NDArray[np.float32] = found.cpu().numpy()
    return chances


def summarise(predictions: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Per split: clips, groups, accuracy, balanced accuracy, macro-F1, cross-entropy.

    `balanced_accuracy_interval` is a 95 % percentile interval from resampling groups and then clips within them:
    clips of one instrument are not independent, so resampling clips alone would promise too much. It is None where
    a class has a single clip, which tells nothing of its spread.
    """
    classes = _classes(predictions)
    found = {}
    for name, part in predictions.sort_values("name").groupby("split", sort=False):
        true, predicted = (_codes(part[column], classes) for column in ("true", "predicted"))
        chances = part[[f"p_{c}" for c in classes]].to_numpy()[np.arange(len(part)), true]
        right = (true == predicted).astype(np.float64)
        found[str(name)] = {
            "clips": len(part),
            "groups": part["group"].nunique(),
            **asdict(scores(confusion_matrix(true, predicted, len(classes)))),
            "cross_entropy": float(-np.log(np.maximum(chances, _SMALLEST)).mean()),
            "balanced_accuracy_interval": _interval(true, part["group"].to_numpy(dtype=str), seed, right),
        }
    return found


def difference(one: pd.DataFrame, other: pd.DataFrame, split: str, seed: int = 0) -> dict[str, Any]:
    """How much better `one` does than `other` on a split: balanced accuracies' difference and its 95 % interval.

    Paired: both models are scored on the same resampled clips. The interval is None as in `summarise`.
    """
    classes = _classes(one)
    parts = [frame[frame["split"] == split].sort_values("name") for frame in (one, other)]
    true = _codes(parts[0]["true"], classes)
    groups = parts[0]["group"].to_numpy(dtype=str)
    # Both have the same clips in each class, so the difference of the recalls is the recall of the differences.
    first, second = ((_codes(part["predicted"], classes) == true).astype(np.float64) for part in parts)
    lead = first - second
    return {
        "difference": _mean_recall(true, lead),
        "interval": _interval(true, groups, seed, lead),
        "groups": len(set(groups)),
    }


def _mean_recall(true: Rows, right: npt.NDArray[np.float64]) -> float:
    """The mean over the classes present of the mean of `right`: balanced accuracy, or a difference of two."""
    support = np.bincount(true)
    return float((np.bincount(true, weights=right)[support > 0] / support[support > 0]).mean())


def _interval(
    true: Rows, groups: npt.NDArray[np.str_], seed: int, right: npt.NDArray[np.float64]
) -> list[float] | None:
    """The 95 % percentile interval of the mean recall over resampled rows; None where a class has a single clip."""
    support = np.bincount(true)
    if (support == 1).any():
        return None
    low, high = np.quantile(
        [_mean_recall(true[rows], right[rows]) for rows in _resamples(true, groups, seed)], [0.025, 0.975]
    )
    return [float(low), float(high)]


def _resamples(true: Rows, groups: npt.NDArray[np.str_], seed: int) -> Iterator[Rows]:
    """Row numbers of resampled data: groups are drawn within each class, then clips within each drawn group.

    Drawing groups within the class keeps every class present; drawing clips within the group leaves some spread
    to a class of a single group, though less than new groups would bring.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    members: dict[int, list[int]] = {}
    for group, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        members.setdefault(int(np.bincount(true[order[start : start + size]]).argmax()), []).append(group)
    for _ in range(_RESAMPLES):
        drawn = np.concatenate([rng.choice(found, len(found)) for found in members.values()])
        each = np.repeat(drawn, sizes[drawn])
        yield order[starts[each] + (rng.random(len(each)) * sizes[each]).astype(np.int64)]


def _classes(predictions: pd.DataFrame) -> list[str]:
    return [column[2:] for column in predictions.columns if column.startswith("p_")]


def _codes(column: "pd.Series[str]", classes: list[str]) -> npt.NDArray[np.int64]:
    return pd.Categorical(column, categories=classes).codes.astype(np.int64)
