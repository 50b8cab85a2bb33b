"""Scoring a trained model: per-clip predictions, and every number computed from them."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from trainables import checkpoint, data, loop
from trainables.config import TrialConfig
from trainables.metrics import confusion_matrix, scores

_BATCH = 512
_RESAMPLES = 2000
_SMALLEST = np.finfo(np.float32).tiny


def predict(config: TrialConfig, weights: Path, splits: Iterable[str]) -> pd.DataFrame:
    """Predictions of a trained model for whole splits, one row per clip.

    Columns: `name`, `split`, `group`, `true`, `predicted` and one `p_CLASS` with the probability of each class.
    """
    torch.set_num_threads(config.threads)
    device = data.choose_device()
    dataset = data.load(config.data)
    classes = dataset.split.classes
    shape = config.features.shape(dataset.store.sample_rate_hz)
    model = loop.build(config, shape, len(classes))
    checkpoint.load_weights(weights, model)
    model.to(device).eval()
    frames = []
    for name in splits:
        part = data.part(dataset, name, config.features, device)
        with torch.inference_mode():
            batches = torch.arange(len(part.labels)).split(_BATCH)
            chances = torch.cat(
                [loop.forward(model, part.fetch(batch.to(device))).softmax(1).cpu() for batch in batches]
            ).numpy()
        rows = dataset.split.rows[name]
        columns: dict[str, Any] = {
            "name": dataset.store.clips["name"].to_numpy()[rows],
            "split": name,
            "group": dataset.split.groups[rows],
            "true": np.array(classes, dtype=object)[dataset.split.labels[rows]],
            "predicted": np.array(classes, dtype=object)[chances.argmax(1)],
        }
        frames.append(pd.DataFrame({**columns, **{f"p_{c}": chances[:, i] for i, c in enumerate(classes)}}))
    return pd.concat(frames, ignore_index=True)


def summarise(predictions: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Per split: clips, groups, accuracy, balanced accuracy, macro-F1, cross-entropy.

    `balanced_accuracy_interval` is a 95 % percentile interval from resampling whole groups: clips of one
    instrument are not independent, so resampling clips would promise too much.
    """
    classes = [column[2:] for column in predictions.columns if column.startswith("p_")]
    found = {}
    for name, part in predictions.groupby("split", sort=False):
        true, predicted = (_codes(part[column], classes) for column in ("true", "predicted"))
        chances = part[[f"p_{c}" for c in classes]].to_numpy()[np.arange(len(part)), true]
        found[str(name)] = {
            "clips": len(part),
            "groups": part["group"].nunique(),
            **asdict(scores(confusion_matrix(true, predicted, len(classes)))),
            "cross_entropy": float(-np.log(np.maximum(chances, _SMALLEST)).mean()),
            "balanced_accuracy_interval": _interval(true, predicted, part["group"], len(classes), seed),
        }
    return found


def _interval(
    true: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    groups: "pd.Series[str]",
    n_classes: int,
    seed: int,
) -> list[float]:
    """2.5 % and 97.5 % of the balanced accuracy over resampled groups, drawn within each class.

    Drawing within the class keeps every class present, as a new sample of instruments would be planned.
    """
    names, codes = np.unique(groups.to_numpy(dtype=str), return_inverse=True)
    tables = np.stack([confusion_matrix(true[codes == g], predicted[codes == g], n_classes) for g in range(len(names))])
    home = tables.sum(axis=2).argmax(axis=1)
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(home == label) for label in np.unique(home)]
    drawn = []
    for _ in range(_RESAMPLES):
        chosen = np.concatenate([rng.choice(group, len(group)) for group in members])
        drawn.append(scores(tables[chosen].sum(axis=0)).balanced_accuracy)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return [float(low), float(high)]


def _codes(column: "pd.Series[str]", classes: list[str]) -> npt.NDArray[np.int64]:
    return pd.Categorical(column, categories=classes).codes.astype(np.int64)
