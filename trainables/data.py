"""A corpus as the networks see it: per split, labels and inputs on the trial's device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from trainables import corpora
from trainables.config import DataConfig
from trainables.corpora.splits import SPLITS, Split, split
from trainables.corpora.store import Store
from trainables.errors import UserError
from trainables.features.waveform import Frames, frames

_CHUNK_CLIPS = 512


@dataclass(frozen=True)
class Part:
    """One split: `labels` `(clips,)` and `fetch`, which maps positions `(batch,)` to inputs on the device."""

    labels: Tensor
    fetch: Callable[[Tensor], Tensor]

    @classmethod
    def resident(cls, inputs: Tensor, labels: Tensor) -> "Part":
        """A split whose inputs `(clips, …)` all lie on the device."""
        return cls(labels, lambda positions: inputs[positions])


@dataclass(frozen=True)
class TrialData:
    """What a trial trains on: `parts` by split name, the shape of one input, the number of classes."""

    parts: dict[str, Part]
    input_shape: tuple[int, int]
    n_classes: int
    device: torch.device


@dataclass(frozen=True)
class Dataset:
    """A corpus for one task: its store and its splits."""

    store: Store
    split: Split


@lru_cache(maxsize=2)
def load(data: DataConfig) -> Dataset:
    """The corpus that a configuration names; raises UserError where its content is another by now."""
    store = corpora.open_corpus(data.corpus)
    if store.digest != data.digest:
        raise UserError(
            f"A study keeps to one corpus, but the content of {data.corpus} has changed since it began "
            f"(digest {store.digest[:12]}, was {data.digest[:12]}). Restore the corpus or start a new study."
        )
    parts = split(store.clips, task=data.task, keep_synth_lead=data.keep_synth_lead, seed=data.split_seed)
    return Dataset(store, parts)


def trial_data(data: DataConfig, how: Frames, device: torch.device, memory_bytes: int | None = None) -> TrialData:
    """Train and tune inputs of a trial, within `memory_bytes`; kept for the next trial that wants the same."""
    wanted = (data, how, device, memory_bytes)
    if wanted not in _kept:
        _kept.clear()  # before the new ones are made, so that there is never room needed for both
        _kept[wanted] = _trial_data(*wanted)
    return _kept[wanted]


_kept: dict[tuple[DataConfig, Frames, torch.device, int | None], TrialData] = {}


def _trial_data(data: DataConfig, how: Frames, device: torch.device, memory_bytes: int | None) -> TrialData:
    dataset = load(data)
    parts = {name: part(dataset, name, how, device, memory_bytes) for name in ("train", "tune")}
    return TrialData(parts, how.shape(dataset.store.sample_rate_hz), len(dataset.split.classes), device)


def part(dataset: Dataset, name: str, how: Frames, device: torch.device, memory_bytes: int | None = None) -> Part:
    """One split's inputs: computed once and kept on the device if they fit in a quarter of its free memory.

    On a CPU a quarter of `memory_bytes`, what the trial may use in all, counts as well. Otherwise they are
    computed anew for every batch from the memory-mapped store.
    """
    assert name in SPLITS
    store, rows = dataset.store, dataset.split.rows[name]
    labels = torch.from_numpy(dataset.split.labels[rows]).to(device)
    shape = how.shape(store.sample_rate_hz)
    if 4 * len(rows) * shape[0] * shape[1] <= _room(device, memory_bytes) // 4:
        inputs = torch.empty((len(rows), *shape))
        for start, chunk in _chunks(rows):
            inputs[start : start + len(chunk)] = torch.from_numpy(_inputs(store, chunk, how))
        return Part.resident(inputs.to(device), labels)

    def fetch(positions: Tensor) -> Tensor:
        return torch.from_numpy(_inputs(store, rows[positions.cpu().numpy()], how)).to(device)

    return Part(labels, fetch)


def choose_device() -> torch.device:
    """The GPU where there is one that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _inputs(store: Store, rows: npt.NDArray[np.int64], how: Frames) -> npt.NDArray[np.float32]:
    return frames(store.waveforms(rows, how.seconds), how, store.sample_rate_hz)


def _chunks(rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    for start in range(0, len(rows), _CHUNK_CLIPS):
        yield start, rows[start : start + _CHUNK_CLIPS]


def _room(device: torch.device, memory_bytes: int | None) -> int:
    free = _free_memory(device)
    return free if memory_bytes is None or device.type == "cuda" else min(free, memory_bytes)


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
