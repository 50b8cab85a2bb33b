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

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.corpora.importer import Options
from trainables.corpora.journal import Entry, read_entries
from trainables.corpora.layout import Bad, Corpus, Kind, Row
from trainables.corpora.wording import counted
from trainables.files import sync, write_json

FORMAT = 2
QUARANTINE = ("split", "name", "path", "reason")
REPAIRS = ("split", "name", "path", "repair")


def schema(kind: Kind) -> pa.Schema:
    """Return the columns of a store's clips."""
    return pa.schema(
        [
            *((name, pa.string()) for name in ("name", "split", "group", *kind.tasks)),
            *((name, pa.int64()) for name in kind.details),
            ("path", pa.string()),
            ("offset", pa.int64()),
            ("samples", pa.int32()),
            ("digest", pa.string()),
        ]
    )


def metadata(kind: Kind, corpus: Corpus) -> pd.DataFrame:
    """Return the usable rows of a corpus without decoding audio, in the corpus's own order.

    Columns: those of a store's clips up to path. Raises UserError like Corpus.rows.
    """
    rows = [row for row in corpus.rows() if isinstance(row, Row)]
    columns = {key: pd.Series(values, dtype="str") for key, values in _texts(kind, rows).items()}
    details = {key: pd.Series(values, dtype="int64") for key, values in _details(kind, rows).items()}
    return pd.DataFrame({**columns, **details, "path": pd.Series([row.path for row in rows], dtype="str")})


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
    notes: list[str] = field(default_factory=list)
    emptied: list[dict[str, str | int]] = field(default_factory=list)


def assemble(name: str, kind: Kind, corpus: Corpus, options: Options, work: Path, folder: Path) -> str:
    """Write all tables of a store into `folder`, which holds its samples already; return its content digest.

    `name` is the kind's, `work` holds the journal and the lists of archives.
    """
    tables = Tables()
    content, paths = sha256(json.dumps([FORMAT, options.sample_rate_hz, options.max_seconds]).encode()), sha256()
    journal = groupby(read_entries(work / "journal.jsonl"), attrgetter("split"))
    pending = next(journal, None)
    for split, rows in groupby(corpus.rows(work), attrgetter("split")):
        decoded = Decoded()
        if pending is not None and pending[0] == split:
            decoded = _collect(pending[1])
            pending = next(journal, None)
        _join(tables, kind, corpus, split, rows, decoded)
        for line in _content(tables.clips[-1]):
            content.update(line)
        for path in tables.clips[-1]["path"].to_pylist():
            paths.update(path.encode() + b"\n")
    clips = pa.concat_tables(tables.clips)
    pq.write_table(clips, folder / "clips.parquet")
    _write_csv(folder / "quarantine.csv", QUARANTINE, tables.quarantine)
    _write_csv(folder / "repairs.csv", REPAIRS, tables.repairs)
    digest = content.hexdigest()
    cut = sum(entry.reason == options.cut for entry in tables.repairs)
    if cut:
        longer = counted(cut, "longer recording", "longer recordings")
        tables.notes.append(f"of {longer} only the first {options.max_seconds:g} s are kept")
    description = {
        "format": FORMAT,
        "kind": name,
        **asdict(options),
        "digest": digest,
        "paths": paths.hexdigest(),
        "clips": clips.num_rows,
        "samples": (folder / "samples.i16").stat().st_size // 2,
        "files": {name: sha256((folder / name).read_bytes()).hexdigest() for name in TABLES},
        "counts": tables.counts,
        "notes": tables.notes,
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


def _join(tables: Tables, kind: Kind, corpus: Corpus, split: str, rows: Iterable[Row | Bad], decoded: Decoded) -> None:
    good: list[Row] = []
    bad: list[Bad] = []
    names: set[str] = set()
    had: Counter[tuple[str, str]] = Counter()
    for row in rows:
        names.add(row.name)
        if isinstance(row, Bad):
            bad.append(row)
            continue
        had.update(zip(kind.tasks, row.labels, strict=True))
        if row.name in decoded.index:
            good.append(row)
        else:
            bad.append(Bad(split, row.name, row.path, decoded.reasons.get(row.name, "no such file")))
    good.sort(key=attrgetter("name"))
    left = {pair for row in good for pair in zip(kind.tasks, row.labels, strict=True)}
    tables.clips.append(_clips(kind, good, decoded))
    tables.counts[split] = {"rows": len(good) + len(bad), "good": len(good), "bad": len(bad)}
    tables.notes += corpus.notes(split, names, decoded.index.keys() | decoded.reasons.keys())
    tables.quarantine += sorted([*bad, *decoded.stray], key=lambda entry: (entry.name, entry.path, entry.reason))
    tables.repairs += [
        Bad(split, row.name, row.path, repair) for row in good for repair in decoded.repairs.get(row.name, ())
    ]
    tables.emptied += [
        {"split": split, "task": task, "class": label, "rows": rows_lost}
        for (task, label), rows_lost in sorted(had.items())
        if (task, label) not in left
    ]


def _texts(kind: Kind, rows: list[Row]) -> dict[str, list[str]]:
    columns = {key: [getattr(row, key) for row in rows] for key in ("name", "split", "group")}
    return columns | {task: [row.labels[place] for row in rows] for place, task in enumerate(kind.tasks)}


def _details(kind: Kind, rows: list[Row]) -> dict[str, list[int]]:
    return {detail: [row.details[place] for row in rows] for place, detail in enumerate(kind.details)}


def _clips(kind: Kind, rows: list[Row], decoded: Decoded) -> pa.Table:
    places = [decoded.index[row.name] for row in rows]
    columns: dict[str, list[str] | list[int]] = {**_texts(kind, rows), **_details(kind, rows)}
    columns["path"] = [row.path for row in rows]
    columns["offset"] = [decoded.offsets[place] for place in places]
    columns["samples"] = [decoded.samples[place] for place in places]
    columns["digest"] = [decoded.digests[place] for place in places]
    return pa.table(columns, schema=schema(kind))


def _content(clips: pa.Table) -> Iterator[bytes]:
    """Yield what a store's digest is made of: names, labels and samples, not where they lie."""
    for batch in clips.drop_columns(["path", "offset"]).to_batches(max_chunksize=10_000):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield json.dumps(row).encode() + b"\n"


def _write_csv(path: Path, header: tuple[str, ...], entries: list[Bad]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows((entry.split, entry.name, entry.path, entry.reason) for entry in entries)
