"""Labelled corpora: where the recordings come from, how they are split, and the store they are read from."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from trainables.corpora import demo
from trainables.corpora.nsynth import metadata
from trainables.corpora.store import Store, disk_needed, find_store, open_store
from trainables.errors import UserError

Progress = Callable[[str, int, int], None]

SAMPLE_RATE_HZ = 16_000
KINDS = ("demo", "nsynth:PATH")


def locate(spec: str, progress: Progress | None = None) -> tuple[str, Path]:
    """The kind and the folder behind `demo` or `nsynth:PATH`; the demo corpus is generated where missing."""
    kind, _, path = spec.partition(":")
    if kind == "demo" and not path:
        return "demo", demo.cached(progress)
    if kind == "nsynth" and path:
        return "nsynth", Path(path).expanduser().resolve()
    raise UserError(f"--data must be one of {', '.join(KINDS)}, but is {spec!r}.")


def absolute(spec: str) -> str:
    """The same corpus, named so that it is found from any working directory."""
    kind, _, path = spec.partition(":")
    return f"{kind}:{Path(path).expanduser().resolve()}" if path else spec


def open_corpus(spec: str, *, strict: bool = False, progress: Progress | None = None) -> Store:
    """The store of a corpus, decoded now where it is not there yet; raises UserError."""
    kind, path = locate(spec, progress)
    return open_store(kind, path, strict=strict, progress=progress)


def labels(spec: str) -> pd.DataFrame:
    """The rows of a corpus without decoding any audio, which may leave some of them out later."""
    return metadata(locate(spec)[1])


def corpus_disk_needed(spec: str) -> int:
    """Bytes that decoding the corpus will take, roughly; 0 where that is done already."""
    kind, path = locate(spec)
    return 0 if find_store(kind, path) else disk_needed(kind, path)
