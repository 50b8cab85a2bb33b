"""Labelled corpora: where the recordings come from, how they are split, and the store they are read from.

A corpus is named by a text, `spec`, in one of the forms of KINDS. All functions here raise UserError for a name of
another form, and where the corpus is not there.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from trainables.corpora import demo, demo_genre, kinds
from trainables.corpora.assemble import metadata
from trainables.corpora.layout import SPLITS, Kind
from trainables.corpora.store import Store, disk_needed, find_store, open_store
from trainables.errors import UserError
from trainables.files import from_home

Progress = Callable[[str, int, int], None]

KINDS = ("demo", "demo-genre", "nsynth:PATH", "gtzan:PATH", "folder:PATH", "csv:FILE")
GENERATED = {"demo": demo.cached, "demo-genre": demo_genre.cached}


def _kind(spec: str) -> tuple[str, str]:
    """The kind and the path, empty for a generated corpus."""
    kind, _, path = spec.partition(":")
    if kind not in kinds.KINDS or (kind in GENERATED) == bool(path):
        raise UserError(f"--data must be one of {', '.join(KINDS)}, but is {spec!r}.")
    return kind, path


def locate(spec: str, progress: Progress | None = None) -> tuple[str, Path]:
    """The kind and the folder or file behind a corpus' name; a demo corpus is generated where missing."""
    kind, path = _kind(spec)
    return kind, GENERATED[kind](progress) if kind in GENERATED else _resolved(path)


def absolute(spec: str) -> str:
    """The same corpus, named so that it is found from any working directory."""
    kind, _, path = spec.partition(":")
    return f"{kind}:{_resolved(path)}" if path else spec


def _resolved(path: str) -> Path:
    try:
        place = from_home(path).resolve()
        place.exists()
    except (OSError, RuntimeError) as error:  # no permission to look there, a name too long; a circle of links
        raise UserError(f"--data must name a path that leads somewhere, but {path} does not ({error}).") from error
    return place


def open_corpus(spec: str, *, strict: bool = False, progress: Progress | None = None) -> Store:
    """The store of a corpus, decoded now where it is not there yet; raises UserError."""
    kind, path = locate(spec, progress)
    return open_store(kind, path, strict=strict, progress=progress)


def labels(spec: str) -> pd.DataFrame:
    """The rows of a corpus without decoding any audio, which may leave some of them out later."""
    kind, path = locate(spec)
    return metadata(kinds.KINDS[kind], kinds.KINDS[kind].locate(path))


def corpus_disk_needed(spec: str) -> int:
    """Bytes that decoding the corpus will take, roughly; 0 where that is done already."""
    kind, path = locate(spec)
    return 0 if find_store(kind, path) else disk_needed(kind, path)


def _layout(spec: str) -> Kind:
    return kinds.KINDS[_kind(spec)[0]]


def tasks(spec: str) -> tuple[str, ...]:
    """What the corpus has labels for, the default first."""
    return _layout(spec).tasks


def sample_rate_hz(spec: str) -> int:
    """The rate at which its clips are kept."""
    return _layout(spec).sample_rate_hz


def clip_seconds(spec: str) -> float:
    """The most that is kept of a clip."""
    return _layout(spec).max_seconds


def splits_of(spec: str) -> tuple[str, ...]:
    """The values of --split that the corpus allows, the default first; a table is read for it."""
    if _kind(spec)[0] == "csv" and set(labels(spec)["split"]) & set(SPLITS):
        return ("official",)
    return _layout(spec).splits
