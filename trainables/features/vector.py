"""Hand-crafted descriptors of a clip as one vector, as Urbaitis and Payeli have them.

The descriptors of all clips of a corpus are computed once and kept beside its store; what a trial does with them,
choosing columns, scaling, projecting, takes a moment.

    $ETUDE_CACHE/features/KEY.table      a checksum and the values
    $ETUDE_CACHE/features/KEY.partial/   a table under way, or interrupted: finished chunks are not computed again
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psutil
from filelock import FileLock, Timeout

from trainables.corpora.audio import FULL_SCALE, Samples
from trainables.corpora.importer import Progress, cores
from trainables.corpora.store import Store, stores_folder
from trainables.errors import UserError
from trainables.features import descriptors
from trainables.features.descriptors import FRAME_SAMPLES, HOP_SAMPLES, BadClip, Chunk, Floats, has_rhythm
from trainables.features.descriptors import names as names  # the order of a table's columns
from trainables.files import replace_file

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS = ("mean", "mean+deviation")

_FORMAT = 1  # of a table: to be raised whenever a descriptor comes out differently
_CHUNK_SECONDS = 600.0  # of audio, about a second's work
_ALONE_SECONDS = 3600.0  # of audio that are described before other processes would have imported librosa
_WORKER_BYTES = 512 * 2**20  # of one process: mostly librosa and what it imports
_WAIT_SECONDS = 0.5
_CHECKSUM_BYTES = 32


@dataclass(frozen=True)
class Vector:
    """How a whole clip becomes a vector: which statistics over time, and how much variance the PCA keeps.

    `statistics` is "mean" or "mean+deviation". The vectors are standardised and, unless `pca` is 0, projected on
    as many principal components as explain that share of the variance; both are fitted on training clips only.
    """

    statistics: str
    pca: float
    excerpt: str = "whole"
    seconds: float = 0.0
    kind: str = field(default="vector", init=False)

    def __post_init__(self) -> None:
        assert self.statistics in STATISTICS
        assert 0 <= self.pca < 1
        assert (self.excerpt, self.seconds) == ("whole", 0.0), "a vector describes a whole clip"

    def columns(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """The positions among a table's columns of those that are used; the tempo is one whatever the statistics."""
        kept = [n for n, name in enumerate(names) if self.statistics != "mean" or not name.endswith("_deviation")]
        return np.array(kept, dtype=np.int64)

    def shape(self, sample_rate_hz: int, clip_seconds: float) -> tuple[int]:
        """`(columns,)`. With a PCA that is the most there can be: how many components are kept depends on the data."""
        return (len(self.columns(names(clip_seconds))),)

    def stored_bytes(self, sample_rate_hz: int, clip_seconds: float) -> int:
        """Four bytes a value, at most."""
        return 4 * self.shape(sample_rate_hz, clip_seconds)[0]

    def prepare(self, waveforms: "Tensor", sample_rate_hz: int) -> "Tensor":
        """Not to be called: vectors come from `table` and `fit`, which know a clip's true length and the others."""
        raise NotImplementedError("vectors are made by table() and fit(), not clip by clip")

    def present(self, kept: "Tensor") -> "Tensor":
        """The same."""
        return kept


@dataclass(frozen=True, eq=False)
class Fitted:
    """What makes inputs of the columns used: `(values - mean) / scale`, then the projection on `components`.

    `mean` and `scale` are `(columns,)`, `components` `(kept, columns)` or None where nothing is projected.
    """

    mean: Floats
    scale: Floats
    components: Floats | None

    @property
    def kept(self) -> int:
        """The length of an input."""
        return len(self.mean if self.components is None else self.components)

    def apply(self, values: Floats) -> Floats:
        """Inputs `(clips, kept)` of values `(clips, columns)`."""
        scaled: Floats = np.subtract(values, self.mean, dtype=np.float32)
        scaled /= self.scale
        if self.components is None:
            return scaled
        projected: Floats = scaled @ self.components.T
        return projected

    def save(self, path: Path) -> None:
        """Writes a file from which `load` makes an equal one."""
        from safetensors.numpy import save_file

        arrays = {"mean": self.mean, "scale": self.scale, "components": self.components}
        replace_file(path, lambda file: save_file({k: v for k, v in arrays.items() if v is not None}, file))

    @classmethod
    def load(cls, path: Path) -> "Fitted":
        """What `save` wrote; raises ValueError where the file holds anything else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        columns = found["mean"].shape if "mean" in found else ()
        components = found.get("components")
        if (
            set(found) - {"components"} != {"mean", "scale"}
            or any(array.dtype != np.float32 or not np.isfinite(array).all() for array in found.values())
            or len(columns) != 1
            or found["scale"].shape != columns
            or (components is not None and components.shape[1:] != columns)
        ):
            raise ValueError("it holds no scaling of features")
        return cls(found["mean"], found["scale"], components)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record, exact to the last bit of a 32-bit number."""
        return {
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "components": None if self.components is None else self.components.tolist(),
        }


def fit(train: Floats, pca: float) -> Fitted:
    """Fit scaling and projection to the training clips `(clips, columns)`, at least one; `pca` as `Vector` has it.

    A constant column keeps its scale and has no part in any component. Where all are constant, one remains, of 0s.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    assert len(train)
    scaler = StandardScaler()
    scaled = scaler.fit_transform(train.astype(np.float64))
    components = None
    if pca and not scaled.any():
        components = np.eye(1, train.shape[1])
    elif pca:
        # Equal to the solver "full" but for rounding: it takes a sixteenth of the time on NSynth, and no memory.
        components = PCA(n_components=pca, svd_solver="covariance_eigh").fit(scaled).components_
    return Fitted(
        scaler.mean_.astype(np.float32),
        scaler.scale_.astype(np.float32),
        None if components is None else np.ascontiguousarray(components, dtype=np.float32),
    )


def of_clip(samples: Samples, sample_rate_hz: int, clip_seconds: float) -> Floats:
    """The descriptors `(names,)` of one clip, as `table` has them in a corpus whose longest lasts `clip_seconds`.

    Raises BadClip where librosa fails on it.
    """
    waveform = samples * np.float32(1 / FULL_SCALE)
    return descriptors.describe_clip(0, waveform, sample_rate_hz, has_rhythm(clip_seconds))


def table(store: Store, progress: Progress | None = None) -> Floats:
    """All descriptors of all clips `(clips, names)`, read-only, in the order of `store.clips` and of `names`.

    They are computed on all cores where that has not been done. `progress(stage, done, total)` is told of the work,
    in clips; total 0 means unknown. Raises UserError where the cache cannot be written, memory runs out, or librosa
    fails on a clip.
    """
    path, shape = _path(store), (len(store.clips), len(names(store.clip_seconds)))
    found = _read(path, shape)
    return _table_once(store, path, shape, progress or _silent) if found is None else found


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _path(store: Store) -> Path:
    """Where a table lies: its name says all that its values depend on."""
    settings = [_FORMAT, version("librosa"), FRAME_SAMPLES, HOP_SAMPLES, names(store.clip_seconds), store.digest]
    key = sha256(json.dumps(settings).encode()).hexdigest()[:32]
    return stores_folder().parent / "features" / f"{key}.table"


def _read(path: Path, shape: tuple[int, int]) -> Floats | None:
    """The values in a file, mapped from disk, unless it is missing, damaged or of another shape."""
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    except (OSError, ValueError):
        return None
    checksum, values = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if values.nbytes != 4 * shape[0] * shape[1] or sha256(values.data).digest() != checksum.tobytes():
        return None
    found: Floats = values.view("<f4").reshape(shape)
    return found


def _write(path: Path, values: Floats) -> None:
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    replace_file(path, lambda temporary: temporary.write_bytes(sha256(content).digest() + content))


def _table_once(store: Store, path: Path, shape: tuple[int, int], progress: Progress) -> Floats:
    """The table, computed unless another process does, or did meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        while True:
            try:
                with lock.acquire(timeout=_WAIT_SECONDS):
                    found = _read(path, shape)
                    return _compute(store, path, shape, progress) if found is None else found
            except Timeout:
                progress("waiting for another process", 0, 0)
    except BadClip as error:
        row, reason = error.args
        raise UserError(
            f"Every clip must have descriptors, but librosa fails on {store.clips['path'].iloc[row]} ({reason}). "
            "Remove that recording from the corpus; what was computed for the others is kept."
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            "Computing features must not be cut short, but one of its processes was killed, most likely for lack of "
            "memory. Free some and try again; it goes on where it stopped."
        ) from error
    except OSError as error:
        raise UserError(
            f"Features must be kept in {path.parent}, but {error}. Put that right or move the cache with ETUDE_CACHE; "
            "the work goes on where it stopped."
        ) from error


def _compute(store: Store, path: Path, shape: tuple[int, int], progress: Progress) -> Floats:
    values = np.empty(shape, dtype=np.float32)
    partial = path.with_suffix(".partial")
    missing, done = [], 0
    for chunk in _chunks(store):
        part = _read(_part(partial, chunk), (len(chunk.offsets), shape[1]))
        if part is None:
            missing.append(chunk)
        else:
            values[chunk.first : chunk.first + len(part)] = part
            done += len(part)
    progress("computing features", done, shape[0])
    for chunk, part in _described(missing):
        values[chunk.first : chunk.first + len(part)] = part
        _write(_part(partial, chunk), part)
        done += len(part)
        progress("computing features", done, shape[0])
    _write(path, values)
    shutil.rmtree(partial)
    found = _read(path, shape)
    return values if found is None else found


def _part(partial: Path, chunk: Chunk) -> Path:
    return partial / f"{chunk.first}.table"


def _chunks(store: Store) -> list[Chunk]:
    """All clips in their order, cut into pieces of equal work."""
    assert isinstance(store.samples, np.memmap)
    lengths, offsets = (store.clips[column].to_numpy(np.int64) for column in ("samples", "offset"))
    before = np.cumsum(lengths) - lengths
    edges = np.flatnonzero(np.diff(before // int(_CHUNK_SECONDS * store.sample_rate_hz))) + 1
    rhythm = has_rhythm(store.clip_seconds)
    # Not the store itself: its table of clips would take hundreds of megabytes in every process.
    return [
        Chunk(
            Path(str(store.samples.filename)),
            1 / FULL_SCALE,
            store.sample_rate_hz,
            rhythm,
            int(rows[0]),
            offsets[rows],
            lengths[rows],
        )
        for rows in np.split(np.arange(len(lengths)), edges)
    ]


def _described(chunks: list[Chunk]) -> Iterator[tuple[Chunk, Floats]]:
    """Chunks with their values `(clips, names)`, as they are finished.

    In processes, not threads: numpy's calls on single clips are too short for threads to share the interpreter, and
    two of them gained a sixth where two processes gained two thirds. "spawn", since Ray's workers run threads.
    """
    if sum(chunk.seconds for chunk in chunks) <= _ALONE_SECONDS:
        yield from ((chunk, descriptors.describe_chunk(chunk)) for chunk in chunks)
        return
    workers = min(cores(), len(chunks), max(1, psutil.virtual_memory().available // _WORKER_BYTES))
    with ProcessPoolExecutor(workers, get_context("spawn"), descriptors.start_worker) as pool:
        try:
            waiting = {pool.submit(descriptors.describe_chunk, chunk): chunk for chunk in chunks}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)
