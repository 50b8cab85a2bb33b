"""Joining rows and decoded samples into the tables of a store: clips, quarantine, repairs, `store.json`."""

import csv
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.corpora.importer import Options
from trainables.corpora.journal import Entry, read_entries
from trainables.corpora.nsynth import SPLITS, Bad, Corpus, Row, scan_split, wav_files
from trainables.files import sync, write_json

FORMAT = 1
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("name", "split", "family", "source", "instrument")),
        *((name, pa.int64()) for name in ("pitch", "velocity")),
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("samples", pa.int32()),
        ("digest", pa.string()),
    ]
)
QUARANTINE = ("split", "name", "path", "reason")
REPAIRS = ("split", "name", "path", "repair")
LABELS = ("family", "source")


@dataclass
class Decoded:
    """The journal of one split: what was decoded by name, in columns, and what could not be."""

    index: dict[str, int] = field(default_factory=dict)
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    samples: "array[int]" = field(default_factory=lambda: array("q"))
    digests: list[str] = field(default_factory=list)
    repairs: dict[str, Sequence[str]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    stray: list[Bad] = field(default_factory=list)


@dataclass
class Tables:
    """What a store's tables are built from, split by split."""

    clips: list[pa.Table] = field(default_factory=list)
    quarantine: list[Bad] = field(default_factory=list)
    repairs: list[Bad] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    emptied: list[dict[str, str | int]] = field(default_factory=list)


def assemble(kind: str, corpus: Corpus, options: Options, work: Path, folder: Path) -> str:
    """Write all tables of a store into `folder`, which holds its samples already; return its content digest.

    `work` holds the journal and the lists of archives.
    """
    tables, seen = Tables(), set[str]()
    content = sha256(json.dumps([FORMAT, options.sample_rate_hz, options.max_seconds]).encode())
    journal = groupby(read_entries(work / "journal.jsonl"), attrgetter("split"))
    pending = next(journal, None)
    for split in SPLITS:
        decoded = Decoded()
        if pending is not None and pending[0] == split:
            decoded = _collect(pending[1])
            pending = next(journal, None)
        _join(tables, split, scan_split(corpus, split, seen, work), decoded, corpus)
        for line in _content(tables.clips[-1]):
            content.update(line)
    clips = pa.concat_tables(tables.clips)
    pq.write_table(clips, folder / "clips.parquet")
    _write_csv(folder / "quarantine.csv", QUARANTINE, tables.quarantine)
    _write_csv(folder / "repairs.csv", REPAIRS, tables.repairs)
    digest = content.hexdigest()
    description = {
        "format": FORMAT,
        "kind": kind,
        **asdict(options),
        "digest": digest,
        "clips": clips.num_rows,
        "samples": (folder / "samples.i16").stat().st_size // 2,
        "files": {name: sha256((folder / name).read_bytes()).hexdigest() for name in TABLES},
        "counts": tables.counts,
        "emptied": tables.emptied,
    }
    write_json(folder / "store.json", description)
    for path in folder.iterdir():
        sync(path)
    sync(folder)
    return digest


TABLES = ("clips.parquet", "quarantine.csv", "repairs.csv")


def _collect(entries: Iterable[Entry]) -> Decoded:
    found = Decoded()
    for entry in entries:
        if not entry.name:
            found.stray.append(Bad(entry.split, "", entry.path, entry.reason))
            continue
        # In an archive the last of several entries with one name counts, as it does for tar.
        found.reasons.pop(entry.name, None)
        found.repairs.pop(entry.name, None)
        if entry.reason:
            found.reasons[entry.name] = entry.reason
            found.index.pop(entry.name, None)
            continue
        found.index[entry.name] = len(found.digests)
        found.offsets.append(entry.offset)
        found.samples.append(entry.samples)
        found.digests.append(entry.digest)
        if entry.repairs:
            found.repairs[entry.name] = entry.repairs
    return found


def _join(tables: Tables, split: str, rows: Iterator[Row | Bad], decoded: Decoded, corpus: Corpus) -> None:
    good: list[Row] = []
    bad: list[Bad] = []
    names: set[str] = set()
    had: Counter[tuple[str, str]] = Counter()
    for row in rows:
        names.add(row.name)
        if isinstance(row, Bad):
            bad.append(row)
            continue
        had.update((label, getattr(row, label)) for label in LABELS)
        if row.name in decoded.index:
            good.append(row)
        else:
            bad.append(Bad(split, row.name, row.path, decoded.reasons.get(row.name, "no such file")))
    good.sort(key=attrgetter("name"))
    left = {(label, getattr(row, label)) for row in good for label in LABELS}
    tables.clips.append(_clips(good, decoded))
    tables.counts[split] = {
        "rows": len(good) + len(bad),
        "good": len(good),
        "bad": len(bad),
        "unlisted": _unlisted(split, corpus, names, decoded),
    }
    tables.quarantine += sorted([*bad, *decoded.stray], key=lambda entry: (entry.name, entry.path, entry.reason))
    tables.repairs += [
        Bad(split, row.name, row.path, repair) for row in good for repair in decoded.repairs.get(row.name, ())
    ]
    tables.emptied += [
        {"split": split, "label": label, "class": value, "rows": rows_lost}
        for (label, value), rows_lost in sorted(had.items())
        if (label, value) not in left
    ]


def _clips(rows: list[Row], decoded: Decoded) -> pa.Table:
    places = [decoded.index[row.name] for row in rows]
    columns: dict[str, list[str] | list[int]] = {
        key: [getattr(row, key) for row in rows]
        for key in ("name", "split", "family", "source", "instrument", "pitch", "velocity", "path")
    }
    columns["offset"] = [decoded.offsets[place] for place in places]
    columns["samples"] = [decoded.samples[place] for place in places]
    columns["digest"] = [decoded.digests[place] for place in places]
    return pa.table(columns, schema=SCHEMA)


def _content(clips: pa.Table) -> Iterator[bytes]:
    """Yield what a store's digest is made of: names, labels and samples, not where they lie."""
    for batch in clips.drop_columns(["path", "offset"]).to_batches(max_chunksize=10_000):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield json.dumps(row).encode() + b"\n"


def _unlisted(split: str, corpus: Corpus, names: set[str], decoded: Decoded) -> int:
    part = corpus.parts[split]
    if part.is_dir():
        return sum(entry.name.removesuffix(".wav") not in names for entry in wav_files(part))
    return len((decoded.index.keys() | decoded.reasons.keys()) - names)


def _write_csv(path: Path, header: tuple[str, ...], entries: list[Bad]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows((entry.split, entry.name, entry.path, entry.reason) for entry in entries)
