"""Scores a saved model on any corpus with the same classes.

python -m analysis.evaluate MODEL --data CORPUS
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.predict import Progress, patient_bar, places_of_model, printable_lines, put, run, say
from trainables import corpora
from trainables.corpora.audio import BadAudio, Samples
from trainables.corpora.layout import SPLITS, UNLABELLED
from trainables.corpora.splits import HOWS, split
from trainables.corpora.store import Store
from trainables.corpora.wording import counted, listed
from trainables.errors import UserError
from trainables.outputs import check_output, write_output
from trainables.scoring import summarise
from trainables.seen import seen

if TYPE_CHECKING:  # Torch takes seconds to import
    from trainables.saved import SavedModel

ALL = "all"
_BATCH = 64  # clips decoded at a time
_ROUNDING_SECONDS = 0.001  # by which a clip resampled may be longer than it was

Rows = npt.NDArray[np.int64]
Chances = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Evaluation:
    """A row per scored clip, as `trainables.evaluate.predict` describes it, and what the user should know."""

    predictions: pd.DataFrame
    notices: tuple[str, ...]
    trained_on: bool
    task: str

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """The scores of each split, in their order; see `trainables.scoring.summarise`."""
        found = summarise(self.predictions)
        return {name: found[name] for name in dict.fromkeys(self.predictions["split"])}


@dataclass(frozen=True)
class Parts:
    """Which clips are scored under which name."""

    rows: dict[str, Rows]
    groups: npt.NDArray[np.object_]
    notices: tuple[str, ...] = ()


def evaluate(
    model: "SavedModel",
    corpus: str,
    *,
    task: str | None = None,
    how: str | None = None,
    progress: Progress = lambda *_: None,
) -> Evaluation:
    """Scores a model on the corpus of that name; raises UserError.

    Clips are scored by the corpus' own splits, or all labelled ones together; `how` asks for "all", or for a division
    as a study makes it ("official", "random", "filtered"). On the corpus that the model was trained on, its splits
    are those of its training.
    """
    task = _task(model, corpus, task)
    store = corpora.open_corpus(corpus, progress=progress)
    trained_on = store.digest == model.config.data.digest
    parts = _trained_parts(model, store, task, how) if trained_on else _parts(model, store, corpus, task, how)
    labels = store.clips[task].to_numpy(dtype=object)
    every = np.concatenate(list(parts.rows.values()))
    if not len(every):
        raise UserError(f"Only labelled clips can be scored, but {corpus} has none for {task}. Name another corpus.")
    if others := sorted(set(labels[every]) - set(model.classes)):
        raise UserError(
            f"A model is scored on its own classes, {listed(list(model.classes))}, but {task} of {corpus} also has "
            f"{listed(others)}. Remove those clips or name another --task."
        )
    chances, bad = _chances(model, store, every, progress)
    from trainables.evaluate import table

    of_split = np.repeat(list(parts.rows), [len(rows) for rows in parts.rows.values()])
    kept = np.isfinite(chances).all(axis=1)
    columns = {
        "name": store.clips["name"].to_numpy(dtype=object)[every],
        "split": of_split,
        "group": parts.groups[every],
        "true": labels[every],
    }
    predictions = table({key: values[kept] for key, values in columns.items()}, model.classes, chances[kept])
    if predictions.empty:
        why = f" ({bad[0]})" if bad else ""
        raise UserError(f"At least one clip must be usable, but none of {corpus} is{why}. Name another corpus.")
    warnings = _warnings(model, store, corpus, parts.rows, trained_on)
    notices = (*warnings, *parts.notices, *_left_out(bad))
    return Evaluation(predictions, notices, trained_on, task)


def _task(model: "SavedModel", corpus: str, task: str | None) -> str:
    """What to classify: as asked for, as in training, or the only task there is."""
    tasks = corpora.tasks(corpus)
    if task is None and model.config.data.task not in tasks and len(tasks) > 1:
        raise UserError(f"{corpus} has no labels for {model.config.data.task!r}. Name a --task: {' or '.join(tasks)}.")
    found = task or (model.config.data.task if model.config.data.task in tasks else tasks[0])
    if found not in tasks:
        raise UserError(f"--task must be {' or '.join(tasks)} for {corpus}, but is {found!r}. Name one of these.")
    return found


def _trained_parts(model: "SavedModel", store: Store, task: str, how: str | None) -> Parts:
    """The splits of the training. Any other would take training clips for test clips."""
    config = model.config.data
    if how not in (None, config.split):
        raise UserError(
            f"On the corpus that it was trained on a model is scored by the splits of its training, {config.split}, "
            f"but --split is {how}. Leave it out."
        )
    found = split(
        store.clips, task=task, how=config.split, keep_synth_lead=config.keep_synth_lead, seed=config.split_seed
    )
    return Parts(found.rows, found.groups)


def _parts(model: "SavedModel", store: Store, corpus: str, task: str, how: str | None) -> Parts:
    """The splits of another corpus."""
    clips, config = store.clips, model.config.data
    own = clips["split"].to_numpy(dtype=object)
    groups = clips["group"].to_numpy(dtype=object)
    if how in ("random", "filtered"):
        if how not in corpora.splits_of(corpus):
            raise UserError(f"--split {how} is not for {corpus}. Leave it out, or use --split {ALL}.")
        found = split(clips, task=task, how=how, keep_synth_lead=config.keep_synth_lead, seed=config.split_seed)
        return Parts(found.rows, found.groups)
    used = own != UNLABELLED
    notices: tuple[str, ...] = ()
    if "family" in clips and task == "family" and "synth_lead" not in model.classes:
        lead = used & (clips["family"].to_numpy(dtype=object) == "synth_lead")
        if lead.any():
            notices = (f"{counted(int(lead.sum()), 'note', 'notes')} of synth_lead left out, as in training.",)
            used &= ~lead
    here = [name for name in SPLITS if (used & (own == name)).any()]
    if how == "official" and not here:
        raise UserError(f"--split official needs a corpus with splits of its own, but {corpus} has none. Leave it out.")
    if how == ALL or not here:
        return Parts({ALL: np.flatnonzero(used)}, groups, notices)
    return Parts({name: np.flatnonzero(used & (own == name)) for name in here}, groups, notices)


def _chances(model: "SavedModel", store: Store, rows: Rows, progress: Progress) -> tuple[Chances, list[str]]:
    """Probabilities `(rows, classes)`, NaN for clips that cannot be used, and what is wrong with those."""
    if _has_vectors(model, store):
        from trainables.features import vector
        from trainables.saved import NOT_FINITE

        found = model.chances_of_vectors(vector.table(store, progress)[rows])
        unclear = rows[~np.isfinite(found).all(axis=1)]
        return found, [f"{name}: {NOT_FINITE}" for name in store.clips["name"].to_numpy(dtype=object)[unclear]]
    found = np.full((len(rows), len(model.classes)), np.nan, dtype=np.float32)
    bad: list[str] = []
    for first in range(0, len(rows), _BATCH):
        progress("scoring", first, len(rows))
        usable = []
        for place, (name, samples) in enumerate(_clips(store, rows[first : first + _BATCH]), start=first):
            try:
                usable.append((place, name, model.convert(samples, store.sample_rate_hz).samples))
            except BadAudio as error:
                bad.append(f"{name}: {error}")
        bad += _answer(model, usable, found)
    return found, bad


def _answer(model: "SavedModel", clips: list[tuple[int, str, Samples]], found: Chances) -> list[str]:
    """Sets the rows of `found` whose places, names and samples are given; returns what is wrong with the others."""
    if not clips:
        return []
    try:
        found[[place for place, _, _ in clips]] = model.chances([samples for _, _, samples in clips])
    except BadAudio as error:
        if len(clips) == 1:
            return [f"{clips[0][1]}: {error}"]
        # One of them, and nobody knows which.
        return [reason for clip in clips for reason in _answer(model, [clip], found)]
    return []


def _has_vectors(model: "SavedModel", store: Store) -> bool:
    """Whether the descriptors of the store's clips, which are kept, are those that the model takes."""
    from trainables.features import vector

    return (
        model.fitted is not None
        and store.sample_rate_hz == model.sample_rate_hz
        and store.clip_seconds <= model.clip_seconds
        and vector.names(store.clip_seconds) == vector.names(model.clip_seconds)
    )


def _clips(store: Store, rows: Rows) -> Iterator[tuple[str, Samples]]:
    """Names and samples of the clips in `rows`, at the store's rate."""
    samples = store.samples.view(np.ndarray)
    for name, offset, length in store.clips[["name", "offset", "samples"]].iloc[rows].itertuples(index=False):
        yield str(name), samples[offset : offset + length]


def _warnings(model: "SavedModel", store: Store, corpus: str, rows: dict[str, Rows], trained_on: bool) -> Iterator[str]:
    if trained_on:
        yield (
            "Warning: this is the corpus that the model was trained on. It has learnt train, and was chosen by tune; "
            "only valid and test tell how good it is."
        )
    elif known := _seen(model, store, rows):
        yield (
            f"Warning: the model was trained or chosen on recordings that are among these, {known}, so scores there "
            f"flatter. Score it on a corpus without them."
        )
    elif corpora.absolute(corpus) == model.config.data.corpus:
        yield (
            "Warning: this is where the model's corpus was, and its content is another by now. Clips that the model "
            "was trained on may be among these."
        )
    if store.sample_rate_hz != model.sample_rate_hz:
        yield f"The clips, kept at {store.sample_rate_hz} Hz, are resampled to the model's {model.sample_rate_hz} Hz."
    if store.clip_seconds > model.clip_seconds + _ROUNDING_SECONDS:
        yield f"Of longer clips only the first {model.clip_seconds:.3g} s count, as in training."


def _seen(model: "SavedModel", store: Store, rows: dict[str, Rows]) -> str:
    """How many of each split's clips the model has seen, where it has seen any."""
    counts = {name: int(seen(model.folder, store, found).sum()) for name, found in rows.items()}
    return ", ".join(
        f"{count:,} of {counted(len(rows[name]), 'clip', 'clips')}{'' if name == ALL else f' of {name}'}"
        for name, count in counts.items()
        if count
    )


def _left_out(bad: list[str]) -> Iterator[str]:
    if bad:
        yield f"{counted(len(bad), 'clip', 'clips')} left out (such as {bad[0]})."


def describe(found: Evaluation) -> str:
    """The scores as a table for people."""
    rows = [["split", "clips", "groups", "accuracy", "balanced", "95 % interval", "macro-F1", "cross-entropy"]]
    for name, row in found.splits.items():
        interval = row["balanced_accuracy_interval"]
        rows.append(
            [
                name,
                f"{row['clips']:,}",
                f"{row['groups']:,}",
                f"{row['accuracy']:.4f}",
                f"{row['balanced_accuracy']:.4f}",
                f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "none",
                f"{row['macro_f1']:.4f}",
                f"{row['cross_entropy']:.4f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    )
    return "\n".join("  ".join(line) for line in lines)


def _check_output(output: Path, model: Path, corpus: str) -> None:
    """Raises UserError where the predictions would replace the model or a recording."""
    kind, _, place = corpus.partition(":")
    recordings: Iterator[Path] = iter(())
    if kind == "csv" and os.path.exists(output):  # noqa: PTH110 - unlike Path.exists() it raises nothing
        recordings = (Path(place).parent / path for path in corpora.labels(corpus)["path"])
    check_output(output, (*places_of_model(model), *([Path(place)] if place else [])), recordings)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", "corpus", metavar="CORPUS", required=True, help=f"One of {', '.join(corpora.KINDS)}.")
@click.option("--task", metavar="TASK", help="What to classify [as in training, or the corpus' only task].")
@click.option(
    "--split",
    "how",
    type=click.Choice((ALL, *HOWS)),
    help="How to divide the clips [the corpus' own splits, else all; those of training for its corpus].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
@click.option(
    "--output", metavar="FILE", type=click.Path(path_type=Path), help="Also write the predictions, as parquet."
)
def _command(model: Path, corpus: str, task: str | None, how: str | None, as_json: bool, output: Path | None) -> None:
    """Score a model on a labelled corpus that has the same classes, or some of them.

    MODEL is the folder of a finished study, its best/ folder, or that of a published recipe in it
    (best/baselines/NAME). The interval is that of the balanced accuracy; it resamples groups (instruments, artists,
    speakers) and clips within them.
    """
    corpus = corpora.absolute(corpus)
    if output is not None:
        _check_output(output, model, corpus)
    from trainables.saved import load

    loaded = load(model)
    with patient_bar() as progress:
        found = evaluate(loaded, corpus, task=task, how=how, progress=progress)
    if output is not None:
        write_output(output, lambda path: found.predictions.to_parquet(path, index=False))
    for notice in found.notices:
        say(notice)
    if as_json:
        record = {
            "model": str(loaded.folder),
            "corpus": corpus,
            "task": found.task,
            "trained_on": found.trained_on,
            "notices": list(found.notices),
            "splits": found.splits,
        }
        put(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        put(printable_lines(describe(found)) + "\n")


def main() -> None:
    """Runs the command line of `python -m analysis.evaluate`."""
    run(_command, "analysis.evaluate")


if __name__ == "__main__":
    main()
