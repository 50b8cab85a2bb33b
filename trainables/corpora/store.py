"""Corpora decoded once, then shared: all processes of a node map the same samples from the page cache.

    $ETUDE_CACHE/stores/KIND-DIGEST/     samples.i16, clips.parquet, quarantine.csv, repairs.csv, store.json
    $ETUDE_CACHE/stores/by-source/       which store the files of a corpus, with their sizes and times, led to
    $ETUDE_CACHE/stores/SOURCE.partial/  an import that is under way, or was interrupted and will go on

A store says what could be read; whether that is enough to work with is judged whenever it is opened.
"""

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from filelock import FileLock, Timeout

from trainables.corpora.assemble import FORMAT, QUARANTINE, REPAIRS, TABLES, assemble
from trainables.corpora.audio import FULL_SCALE
from trainables.corpora.importer import Options, Progress, decode_corpus
from trainables.corpora.kinds import KINDS
from trainables.corpora.layout import Corpus, Survey
from trainables.corpora.wording import counted
from trainables.errors import UserError
from trainables.files import cache_folder, from_home, sync, write_json

MAX_BAD_SHARE = 0.1
SPARE_BYTES = 2**20
WAIT_SECONDS = 0.5
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, eq=False)
class Store:
    """A decoded corpus.

    `clips` has one row per usable clip, ordered by split and name: name, split (the corpus' own; empty where it
    has none, "unlabelled" for clips without a label), group (clips that belong together, as all notes of an
    instrument do), one column per task of its kind with the label, for NSynth's layout pitch (MIDI) and velocity,
    path (in the corpus), offset and samples (where in `samples`, how many), digest. `quarantine` (split, name,
    path, reason) lists what could not be used, `repairs` (split, name, path, repair) what was changed, `notes`
    whatever else a user should know.
    """

    root: Path
    digest: str
    kind: str
    sample_rate_hz: int
    max_seconds: float
    clips: pd.DataFrame
    quarantine: pd.DataFrame
    repairs: pd.DataFrame
    notes: tuple[str, ...] = ()

    @cached_property
    def samples(self) -> npt.NDArray[np.int16]:
        """All clips one after another, shape `(samples,)`, int16, read-only, mapped from disk."""
        return np.memmap(self.root / "samples.i16", dtype="<i2", mode="r")

    @cached_property
    def clip_seconds(self) -> float:
        """The length of the longest clip, at most `max_seconds`."""
        return float(self.clips["samples"].max() / self.sample_rate_hz)

    @cached_property
    def _places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return self.clips["offset"].to_numpy(np.int64), self.clips["samples"].to_numpy(np.int64)

    def waveforms(
        self, rows: npt.NDArray[np.integer], seconds: float, starts: npt.NDArray[np.integer] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return excerpts of clips, by position in `clips`: `(rows, round(seconds * rate))` in [-1, 1).

        They begin at the samples `starts`, one per row, or at the clips' beginnings; after a clip's end come zeros.
        Raises IndexError for a row that is not there.
        """
        offsets, lengths = (column[rows] for column in self._places)
        if starts is not None:
            assert len(starts) == len(rows) and (starts >= 0).all()
            offsets, lengths = offsets + starts, np.maximum(lengths - starts, 0)
        # A clip of 15 samples lasts 15 / rate seconds, which times the rate may be a little less than 15.
        width = round(seconds * self.sample_rate_hz)
        waves = np.zeros((len(rows), width), dtype=np.float32)
        flat = self.samples.view(np.ndarray)  # slices of a memmap object are slow
        for wave, offset, length in zip(waves, offsets, np.minimum(lengths, width), strict=True):
            np.multiply(flat[offset : offset + length], np.float32(1 / FULL_SCALE), out=wave[:length])
        return waves

    def __reduce__(self) -> tuple[Callable[[Path], "Store"], tuple[Path]]:
        return load_store, (self.root,)


def open_store(
    kind: str,
    path: Path,
    *,
    sample_rate_hz: int | None = None,
    max_seconds: float | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Store:
    """Return the store of the corpus in `path`, decoding it first where that has not been done.

    Of each clip `max_seconds` are kept at `sample_rate_hz`, by default those of the kind.
    `progress(stage, done, total)` is told of the work: in files, or bytes of archives; total 0 means unknown.
    Raises UserError if the corpus is not there, the disk is too small, more than a tenth of a split's rows or
    all of a class are unusable, or, where `strict`, anything is.
    """
    request = _request(kind, path, sample_rate_hz, max_seconds)
    return judge(request.find() or _import(request, progress or _silent), strict)


def find_store(
    kind: str,
    path: Path,
    *,
    sample_rate_hz: int | None = None,
    max_seconds: float | None = None,
    strict: bool = False,
) -> Store | None:
    """Return the store that `open_store` would, if it is there already; raises UserError likewise."""
    store = _request(kind, path, sample_rate_hz, max_seconds).find()
    return judge(store, strict) if store else None


def disk_needed(kind: str, path: Path, *, sample_rate_hz: int | None = None, max_seconds: float | None = None) -> int:
    """Estimate the bytes that the store of the corpus in `path` takes, from the sizes of its files."""
    return _request(kind, path, sample_rate_hz, max_seconds).surveyed.disk_bytes + SPARE_BYTES


def stores_folder() -> Path:
    """Return the folder of all stores."""
    return cache_folder() / "stores"


def free_bytes(folder: Path) -> int:
    """Return what the disk under `folder` has left."""
    return shutil.disk_usage(folder).free


def load_store(root: Path) -> Store:
    """Open the store in the folder `root`; raises UserError if it is not whole."""
    store = _load(root)
    if store is None:
        raise UserError(
            f"{root} must be a whole store of format {FORMAT}, but is missing, damaged or of another format. "
            "Open its corpus again to make a new one."
        )
    return store


def _load(root: Path) -> Store | None:
    try:
        description = json.loads((root / "store.json").read_text(encoding="utf-8"))
        if description["format"] != FORMAT:
            return None
        if (root / "samples.i16").stat().st_size != 2 * description["samples"]:
            return None
        if any(sha256((root / name).read_bytes()).hexdigest() != description["files"][name] for name in TABLES):
            return None
        return Store(
            root,
            description["digest"],
            description["kind"],
            description["sample_rate_hz"],
            description["max_seconds"],
            pd.read_parquet(root / "clips.parquet"),
            _read_csv(root / "quarantine.csv", QUARANTINE),
            _read_csv(root / "repairs.csv", REPAIRS),
            tuple(description["notes"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.read_csv(path, dtype="str", keep_default_na=False, usecols=list(columns), lineterminator="\n")


def judge(store: Store, strict: bool = False) -> Store:
    """Return `store`, or raise UserError if too much of its corpus is unusable; see `open_store`."""
    description = json.loads((store.root / "store.json").read_text(encoding="utf-8"))
    listed = f"The list is in {store.root / 'quarantine.csv'}; mend or remove those rows and try again."
    for split, count in description["counts"].items():
        bad = store.quarantine[store.quarantine["split"] == split]
        if count["bad"] > MAX_BAD_SHARE * count["rows"]:
            raise UserError(
                f"At most {MAX_BAD_SHARE:.0%} of a split's rows may be unusable, but of {split or 'all clips'} it is "
                f"{count['bad']:,} of {count['rows']:,} ({top_reasons(bad)}). {listed}"
            )
    for gone in description["emptied"]:
        raise UserError(
            f"Each class must keep some clips, but none of the {gone['rows']:,} of {gone['task']} "
            f"{gone['class']!r} in {gone['split'] or 'the corpus'} can be used. {listed}"
        )
    if strict and len(store.quarantine):
        first = store.quarantine.head(3).astype(object).to_numpy().tolist()
        named = "; ".join(f"{split} {name or where}: {reason}" for split, name, where, reason in first)
        unusable = counted(len(store.quarantine), "is", "are")
        raise UserError(f"A strict import allows nothing unusable, but {unusable}: {named}. {listed}")
    return store


def top_reasons(quarantine: pd.DataFrame) -> str:
    """Return the three commonest kinds of reason with their counts."""
    kinds = Counter(str(reason).partition(":")[0] for reason in quarantine["reason"])
    return ", ".join(f"{count:,} × {kind}" for kind, count in kinds.most_common(3))


def _silent(stage: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Request:
    """A corpus as it lies on the disk now, and how it is to be decoded."""

    kind: str
    corpus: Corpus
    options: Options
    surveyed: Survey

    @property
    def fingerprint(self) -> str:
        """Names what this request leads to, as long as no file changes."""
        asked = [FORMAT, self.kind, self.options.sample_rate_hz, self.options.max_seconds]
        return sha256(json.dumps([*asked, self.surveyed.fingerprint]).encode()).hexdigest()[:32]

    @property
    def pointer(self) -> Path:
        """The file that names the store."""
        return stores_folder() / "by-source" / f"{self.fingerprint}.json"

    def surveyed_again(self) -> Survey | None:
        """Look at the files as they lie there by now; None where they are no corpus any more."""
        try:
            return KINDS[self.kind].locate(self.corpus.root).survey(self.options.clip_bytes)
        except UserError:
            return None

    def find(self) -> Store | None:
        """Return the store if it is there and whole."""
        try:
            name = json.loads(self.pointer.read_text(encoding="utf-8"))["store"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return _load(stores_folder() / Path(str(name)).name)


def _request(kind: str, path: Path, sample_rate_hz: int | None, max_seconds: float | None) -> Request:
    if kind not in KINDS:
        raise UserError(f"A corpus must be one of {', '.join(KINDS)}, but got {kind!r}.")
    options = Options(
        KINDS[kind].sample_rate_hz if sample_rate_hz is None else sample_rate_hz,
        float(KINDS[kind].max_seconds if max_seconds is None else max_seconds),
    )
    corpus = KINDS[kind].locate(from_home(path))
    return Request(kind, corpus, options, corpus.survey(options.clip_bytes))


def _import(request: Request, progress: Progress) -> Store:
    """Decode the corpus unless another process does, or did meanwhile."""
    try:
        request.pointer.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(request.pointer.with_suffix(".lock"))
        while True:
            try:
                with lock.acquire(timeout=WAIT_SECONDS):
                    return request.find() or _import_alone(request, progress)
            except Timeout:
                progress("waiting for another process", 0, 0)
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                f"The disk of {stores_folder()} is full. Free {_size(disk_left(request))} there, or move the "
                "cache with ETUDE_CACHE; the next import goes on where this one stopped."
            ) from error
        raise UserError(
            f"Étude must be able to write to {stores_folder()}, but {error}. Move it with ETUDE_CACHE."
        ) from error


def _partial(request: Request) -> Path:
    return stores_folder() / f"{request.fingerprint}.partial"


def disk_left(request: Request) -> int:
    """Estimate the bytes that remain to be written."""
    samples = _partial(request) / "store" / "samples.i16"
    written = samples.stat().st_size if samples.exists() else 0
    return max(0, request.surveyed.disk_bytes - written) + SPARE_BYTES


def _import_alone(request: Request, progress: Progress) -> Store:
    needed, free = disk_left(request), free_bytes(stores_folder())
    if needed > free:
        raise UserError(
            f"Decoding this corpus needs {_size(needed)} on the disk of {stores_folder()}, which has "
            f"{_size(free)} left. Free some, or move the cache with ETUDE_CACHE."
        )
    work = _partial(request)
    staged = work / "store"
    decode_corpus(request.corpus, request.options, work, staged / "samples.i16", request.surveyed.total, progress)
    progress("writing the tables", 0, 0)
    digest = assemble(request.kind, KINDS[request.kind], request.corpus, request.options, work, staged)
    if request.surveyed_again() != request.surveyed:
        shutil.rmtree(work)
        raise UserError(f"{request.corpus.root} must not change while it is imported, but it did. Import it again.")
    root = _publish(request, staged, digest)
    shutil.rmtree(work)
    return load_store(root)


def _publish(request: Request, staged: Path, digest: str) -> Path:
    """Move the staged store to its place, unless an equal one is there, and point to it."""
    # Equal content can come from other paths and with other lists of what was left out: part of the name.
    lists = sha256(b"".join((staged / name).read_bytes() for name in ("quarantine.csv", "repairs.csv")))
    description = json.loads((staged / "store.json").read_text(encoding="utf-8"))
    lists.update(json.dumps([description[key] for key in ("paths", "counts", "notes")], sort_keys=True).encode())
    root = stores_folder() / f"{request.kind}-{digest[:16]}-{lists.hexdigest()[:8]}"
    # The pointer first: a pointer to nothing does no harm, a store without one would be decoded again.
    write_json(request.pointer, {"store": root.name, "source": str(request.corpus.root.absolute())})
    with FileLock(root.with_suffix(".lock")):
        if _load(root) is None:
            if root.exists():
                shutil.rmtree(root)
            staged.rename(root)
    sync(root.parent)
    return root


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
