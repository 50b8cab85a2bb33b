"""Per-clip predictions of a trained model; the numbers are computed from them in `scoring`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from trainables import checkpoint, data, loop
from trainables.config import TrialConfig
from trainables.data import Part


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
        }
        frames.append(table(columns, classes, chances))
    return pd.concat(frames, ignore_index=True)


def table(columns: Mapping[str, Any], classes: tuple[str, ...], chances: npt.NDArray[np.float32]) -> pd.DataFrame:
    """These columns, what is `predicted`, and the probabilities `(clips, classes)` as columns `p_CLASS`."""
    predicted = np.array(classes, dtype=object)[chances.argmax(1)]
    probabilities = {f"p_{name}": chances[:, number] for number, name in enumerate(classes)}
    return pd.DataFrame({**columns, "predicted": predicted, **probabilities})


def _chances(model: nn.Module, part: Part, clips: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Probabilities `(clips, classes)`."""
    with torch.inference_mode():
        batches = torch.arange(len(part.labels), device=part.labels.device).split(data.evaluation_batch(shape))
        found = torch.cat([loop.forward(model, part.fetch(batch)).softmax(1) for batch in batches])
        if part.clips is not None:
            found = averaged(found, part.clips, clips)
        chances: npt.NDArray[np.float32] = found.cpu().numpy()
    return chances


def averaged(chances: Tensor, numbers: Tensor, clips: int) -> Tensor:
    """Probabilities `(clips, classes)` of those of segments, which are `numbers` `(segments,)` of the clips'."""
    sums = torch.zeros(clips, chances.shape[1], device=chances.device).index_add_(0, numbers, chances)
    return sums / torch.bincount(numbers, minlength=clips)[:, None]
