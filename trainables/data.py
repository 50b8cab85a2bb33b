"""A corpus as the networks see it: per split, labels and inputs on the trial's device."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from trainables import corpora, shelf
from trainables.config import DataConfig
from trainables.corpora.splits import Split, split
from trainables.corpora.store import Store
from trainables.errors import UserError
from trainables.features import Features, excerpt_seconds, vector
from trainables.features.picture import Picture
from trainables.features.vector import Vector

_CHUNK_BYTES = 64 * 2**20

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """One split: `labels` `(examples,)` and `fetch`, which maps positions `(batch,)` to inputs on the device.

    `clips` `(examples,)` numbers the clip that each example was cut from, 0 to their number; None where each
    example is a clip of its own.
    """

    labels: Tensor
    fetch: Callable[[Tensor], Tensor]
    clips: Tensor | None = None

    @classmethod
    def resident(
        cls,
        inputs: Tensor,
        labels: Tensor,
        clips: Tensor | None = None,
        present: Callable[[Tensor], Tensor] = lambda kept: kept,
    ) -> "Part":
        """A split whose examples `(examples, …)` all lie on the device; `present` makes inputs of them."""
        return cls(labels, lambda positions: present(inputs[positions]), clips)


@dataclass(frozen=True)
class TrialData:
    """What a trial trains on: `parts` by split name, the shape of one input, the number of classes."""

    parts: dict[str, Part]
    input_shape: tuple[int, ...]
    n_classes: int
    device: torch.device


@dataclass(frozen=True, eq=False)
class Dataset:
    """A corpus for one task: its store and its splits."""

    store: Store
    split: Split

    def rows(self, name: str) -> Rows:
        """The row numbers of a split's clips, or of those "unlabelled"."""
        return self.split.unlabelled if name == "unlabelled" else self.split.rows[name]


@dataclass(frozen=True)
class Examples:
    """Excerpts of clips: the clip's row in the store, its number within the split, the first sample."""

    rows: Rows
    clips: Rows
    starts: Rows


@lru_cache(maxsize=2)
def load(data: DataConfig) -> Dataset:
    """The corpus that a configuration names; raises UserError where its content is another by now.

    Kept for the next trial: looking through hundreds of thousands of files takes seconds.
    """
    store = corpora.open_corpus(data.corpus)
    if store.digest != data.digest:
        raise UserError(
            f"A study keeps to one corpus, but the content of {data.corpus} has changed since it began "
            f"(digest {store.digest[:12]}, was {data.digest[:12]}). Restore the corpus or start a new study."
        )
    parts = split(
        store.clips, task=data.task, how=data.split, keep_synth_lead=data.keep_synth_lead, seed=data.split_seed
    )
    return Dataset(store, parts)


def trial_data(
    data: DataConfig, how: Features, device: torch.device, spare_bytes: int | None = None, *, shared: bool = False
) -> TrialData:
    """Train and tune inputs of a trial, kept for the next trial that wants the same.

    `spare_bytes` is what training leaves of the trial's memory: what would take more than half of it is computed anew
    for every batch. None means that nothing bounds it. `shared` inputs are those of all trials of this machine.
    """
    dataset = load(data)
    staying = tuple(
        name
        for name in ("train", "tune")
        if spare_bytes is None or _stored_bytes(dataset, name, how) <= spare_bytes // 2
    )
    wanted = (data, how, device, staying)
    if wanted not in _kept:
        _kept.clear()  # before the new ones are made, so that there is never room needed for both
        parts = {
            name: part(dataset, name, how, device, may_stay=name in staying, shared=shared)
            for name in ("train", "tune")
        }
        _kept[wanted] = TrialData(parts, input_shape(dataset, how), len(dataset.split.classes), device)
    return _kept[wanted]


def release(data: DataConfig, how: Features) -> None:
    """Lets go of inputs that were kept, unless they are such."""
    for key in [key for key in _kept if key[:2] != (data, how)]:
        del _kept[key]


_kept: dict[tuple[DataConfig, Features, torch.device, tuple[str, ...]], TrialData] = {}


def _stored_bytes(dataset: Dataset, name: str, how: Features) -> int:
    """What keeping all examples of a split takes."""
    examples = len(excerpts(dataset.store, dataset.rows(name), how).rows)
    return examples * how.stored_bytes(dataset.store.sample_rate_hz, dataset.store.clip_seconds)


def input_shape(dataset: Dataset, how: Features) -> tuple[int, ...]:
    """The shape of one input; how many principal components a vector keeps depends on the corpus."""
    if isinstance(how, Vector):
        return (fitted(dataset, how).kept,)
    return how.shape(dataset.store.sample_rate_hz, dataset.store.clip_seconds)


@lru_cache(maxsize=4)
def fitted(dataset: Dataset, how: Vector) -> vector.Fitted:
    """Scaling and projection of a corpus' vectors, fitted on its training clips alone."""
    return vector.fit(_vectors(dataset, how, dataset.split.rows["train"]), how.pca)


def _vectors(dataset: Dataset, how: Vector, rows: Rows) -> npt.NDArray[np.float32]:
    columns = how.columns(vector.names(dataset.store.clip_seconds))
    return vector.table(dataset.store)[rows][:, columns]


def part(
    dataset: Dataset, name: str, how: Features, device: torch.device, *, may_stay: bool = True, shared: bool = False
) -> Part:
    """One split's inputs: computed once and kept on the device if they may and fit in a quarter of its free memory.

    Otherwise they are computed anew for every batch from the memory-mapped store, with equal results. Where they are
    `shared`, what is kept of a CPU's is on the disk, for the other processes too.
    """
    store, rows = dataset.store, dataset.rows(name)
    if isinstance(how, Vector):
        vectors = torch.from_numpy(fitted(dataset, how).apply(_vectors(dataset, how, rows)))
        return Part.resident(vectors.to(device), torch.from_numpy(dataset.split.labels[rows]).to(device))
    examples = excerpts(store, rows, how)
    labels = torch.from_numpy(dataset.split.labels[examples.rows]).to(device)
    clips = torch.from_numpy(examples.clips).to(device) if how.excerpt == "segments" else None
    rate_hz, seconds = store.sample_rate_hz, excerpt_seconds(how, store.clip_seconds)
    chunk = waveforms_at_once(round(seconds * rate_hz))

    def prepare(positions: Rows) -> Tensor:
        """In chunks, so that no more waveforms are held than need be, and what is kept is held once."""
        found = torch.empty(0, device=device)
        for start in range(0, len(positions), chunk):
            few = positions[start : start + chunk]
            waveforms = store.waveforms(examples.rows[few], seconds, examples.starts[few])
            piece = how.prepare(torch.from_numpy(waveforms).to(device), rate_hz)
            if start == 0:
                found = piece.new_empty((len(positions), *piece.shape[1:]))
            found[start : start + len(few)] = piece
        return found

    if may_stay and _stored_bytes(dataset, name, how) <= _free_memory(device) // 4:

        def make() -> Tensor:
            return prepare(np.arange(len(labels)))

        if not shared or device.type != "cpu":
            return Part.resident(make(), labels, clips, how.present)
        depends_on = (
            repr((store.root.name, store.digest, rate_hz, seconds, _as_prepared(how))).encode(),
            examples.rows,
            examples.starts,
        )
        return Part.resident(shelf.shared(map(bytes, depends_on), make), labels, clips, how.present)
    return Part(labels, lambda positions: how.present(prepare(positions.cpu().numpy())), clips)


def _as_prepared(how: Features) -> Features:
    """The features without what matters only once they are presented: pictures are kept as shades."""
    return replace(how, colour="none") if isinstance(how, Picture) else how


def excerpts(store: Store, rows: Rows, how: Features) -> Examples:
    """What is taken of the clips in `rows`: one excerpt each, or with "segments" as many as fit, at least one.

    Cutting comes after splitting, so all pieces of a clip lie on the same side. What remains at the end of a clip
    is left out.
    """
    size = round(excerpt_seconds(how, store.clip_seconds) * store.sample_rate_hz)
    clips, starts = places(store.clips["samples"].to_numpy(np.int64)[rows], size, how)
    return Examples(rows[clips], clips, starts)


def places(lengths: Rows, size: int, how: Features) -> tuple[Rows, Rows]:
    """Which clip each excerpt of `size` samples is of, and where it begins, for clips of these `lengths`."""
    counts = np.maximum(1, lengths // size) if how.excerpt == "segments" else np.ones(len(lengths), dtype=np.int64)
    clips = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(len(clips)) - np.repeat(np.cumsum(counts) - counts, counts)
    return clips, within * size


def evaluation_batch(shape: tuple[int, ...]) -> int:
    """How many examples to score at once: as many as fit 64 MB, at most 512."""
    return max(1, min(512, _CHUNK_BYTES // (4 * prod(shape))))


def waveforms_at_once(size: int) -> int:
    """How many excerpts of `size` samples to hold at once: as many as fit 64 MB."""
    return max(1, _CHUNK_BYTES // (4 * size))


def choose_device() -> torch.device:
    """The GPU where there is one that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
