"""The trial dataframe: what a study's directory says, as tables. Needs neither Torch nor Ray.

    from analysis import load_study, load_studies
    study = load_study("studies/blstm-demo")
    study.trials, study.epochs

A study may be running, finished or killed, lie on a disk or in `s3://`; what it has so far is shown.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import fs

from search.mirror import ROWS
from search.records import BASELINES, EPOCHS, FAMILIES, SPEC, TRIALS
from spaces.domains import Choice, Float, Int, Param, Space
from trainables.errors import UserError
from trainables.folder import Folder, open_folder

METRICS = ("loss", "cross_entropy", "accuracy", "balanced_accuracy", "macro_f1")

# Columns of `trials`, their types and what they mean. Parameters, `param.NAME`, and all values that decided a trial,
# its parameters with the settings that were not searched, `config.NAME`, follow.
TRIAL_COLUMNS: dict[str, tuple[str, str]] = {
    "study": ("str", "the study's name"),
    "family": ("str", "the architecture family"),
    "corpus": ("str", "what the study was given as --data"),
    "task": ("str", "what was to be told apart"),
    "trial": ("Int64", "the trial's number in its study"),
    "name": ("str", "the published recipe's name, `default`, or `trial N`"),
    "baseline": ("str", "the published recipe's name, missing for others"),
    "origin": ("str", "published, default or sampled"),
    "state": ("str", "running, complete (trained in full, or to its own end), pruned (stopped by ASHA) or failed"),
    "reason": ("str", "why it failed"),
    "full": ("bool", "whether it is complete: only such trials may be chosen or compared with each other"),
    "chosen": ("bool", "whether it is the study's best"),
    "rung": ("Int64", "the last epoch at which it was compared with others"),
    "epochs": ("Int64", "epochs trained"),
    "best_epoch": ("Int64", "the epoch of its best score, whose weights it keeps"),
    "score": ("Float64", "its best balanced accuracy on tune so far: what everything is chosen by"),
    "learning_rate_last": ("Float64", "the learning rate of its last epoch"),
    **{
        f"{at}_{split}_{metric}": ("Float64", f"{metric.replace('_', ' ')} on {split} in the {at} epoch")
        for at in ("best", "last")
        for split in ("train", "tune")
        for metric in METRICS
    },
    "trainable_parameters": ("Int64", "how many weights were trained"),
    "train_seconds": ("Float64", "the time that its epochs took"),
    "started": ("datetime64[ms, UTC]", "when it began"),
    "ended": ("datetime64[ms, UTC]", "when it ended"),
    "memory_bytes": ("Int64", "the most memory its process was seen to use"),
    "node": ("str", "the machine that it last ran on"),
    "seed": ("Int64", "the seed of its weights, order and dropout"),
}

# Columns of `epochs`.
EPOCH_COLUMNS: dict[str, tuple[str, str]] = {
    "study": ("str", "the study's name"),
    "family": ("str", "the architecture family"),
    "trial": ("Int64", "the trial's number in its study"),
    "epoch": ("Int64", "the epoch's number, from 1"),
    "time": ("datetime64[ms, UTC]", "when it was reported"),
    "study_seconds": ("Float64", "the time that the study had worked by then, pauses left out"),
    "score": ("Float64", "the trial's best balanced accuracy on tune so far"),
    "best_epoch": ("Int64", "the epoch of that score"),
    "learning_rate": ("Float64", "the learning rate it was trained with"),
    **{
        f"{split}_{metric}": ("Float64", f"{metric.replace('_', ' ')} on {split}")
        for split in ("train", "tune")
        for metric in METRICS
    },
    "epoch_seconds": ("Float64", "the time it took"),
    "memory_bytes": ("Int64", "the memory of its process afterwards"),
    "node": ("str", "the machine that it ran on"),
    "rung": ("Int64", "the epoch's number where trials were compared there, else missing"),
    "decision": ("str", "continue, stop, complete or fail"),
    "failure": ("str", "why the trial failed in it"),
}


@dataclass(frozen=True)
class Model:
    """A scored model of a study: the chosen trial, or a published recipe. `metrics` is its `metrics.json`."""

    study: str
    family: str
    trial: int
    baseline: str | None
    chosen: bool
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    folder: Folder

    @property
    def name(self) -> str:
        """The published recipe's name, or the family with `default` or the trial's number."""
        if self.baseline:
            return self.baseline
        return f"{self.family} {'default' if self.metrics['origin'] == 'default' else f'trial {self.trial}'}"

    @property
    def changes(self) -> str:
        """What of a recipe is not as published, such as a smaller picture; mostly nothing."""
        return "; ".join(self.metrics["changes"])

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row per clip of tune, valid and test, as `trainables.evaluate.predict` describes it."""
        return pd.read_parquet(io.BytesIO(self.folder.read("predictions.parquet")))


@dataclass(frozen=True)
class Study:
    """One study: `spec` is its `study.json`."""

    name: str
    folder: Folder
    spec: Mapping[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame

    @cached_property
    def space(self) -> Space:
        """The space that was searched."""
        return Space.from_json(self.spec["space"])

    @property
    def family(self) -> str:
        """The architecture family."""
        return str(self.spec["space"]["name"])

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """The chosen model, where it was scored already, and the published recipes; none is there twice."""
        found = list(_models(self))
        chosen = {model.trial for model in found if model.chosen}
        return tuple(model for model in found if model.chosen or model.trial not in chosen)

    @cached_property
    def quarantine(self) -> pd.DataFrame:
        """The recordings that were left out: `split`, `name`, `path`, `reason`."""
        if not self.folder.has("quarantine.csv"):
            return pd.DataFrame(columns=["split", "name", "path", "reason"])
        return pd.read_csv(io.BytesIO(self.folder.read("quarantine.csv")), dtype=str, keep_default_na=False)


@dataclass(frozen=True)
class Studies:
    """Several studies, the tables one below the other."""

    studies: tuple[Study, ...]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial; a parameter that a family does not have is missing."""
        return _stacked([study.trials for study in self.studies], TRIAL_COLUMNS)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """A row per epoch."""
        return _stacked([study.epochs for study in self.studies], EPOCH_COLUMNS)

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """All scored models, the best on tune first."""
        found = [model for study in self.studies for model in study.models]
        return tuple(sorted(found, key=lambda model: (-model.metrics["score"], model.study, model.trial)))


def load_study(location: str | Path) -> Study:
    """One study from its directory; raises UserError where there is none, or where it is damaged."""
    folder = open_folder(location)
    if folder.has(SPEC):
        return _load(folder)
    if inner := _family_folders(folder):
        names = ", ".join(found.name for found in inner)
        raise UserError(
            f"One study is needed, but {location} holds several: {names}. Name one of them, or use load_studies."
        )
    raise UserError(f"A study's directory must hold {SPEC}, but {location} does not. Check the path.")


def load_studies(*locations: str | Path) -> Studies:
    """The studies in these directories; that of a comparison stands for its families. Raises UserError.

    Of studies that have the same name, as families of two comparisons may, each gets its parent's name before its own.
    """
    folders = [found for location in locations for found in _study_folders(location)]
    seen = {folder.path: folder for folder in folders}
    if not seen:
        raise UserError("At least one study must be named, but there is none.")
    studies = [_load(folder) for folder in seen.values()]
    names = [study.name for study in studies]
    return Studies(
        tuple(_renamed(study, _longer(study)) if names.count(study.name) > 1 else study for study in studies)
    )


def _study_folders(location: str | Path) -> list[Folder]:
    folder = open_folder(location)
    if folder.has(SPEC):
        return [folder]
    found = _family_folders(folder)
    if not found:
        raise UserError(f"A study's directory must hold {SPEC}, but {location} does not. Check the path.")
    return found


def _family_folders(folder: Folder) -> list[Folder]:
    """The studies of a comparison, in the order of its families; of any other folder that holds studies, by name."""
    names = folder.read_json(FAMILIES)["families"] if folder.has(FAMILIES) else folder.folders()
    return [folder / name for name in names if (folder / name).has(SPEC)]


def _longer(study: Study) -> str:
    parent, _, own = study.folder.path.rstrip("/").rpartition("/")
    return f"{parent.rpartition('/')[2]}/{own}"


def _renamed(study: Study, name: str) -> Study:
    trials, epochs = study.trials.assign(study=name), study.epochs.assign(study=name)
    return Study(name, study.folder, study.spec, trials, epochs)


def _load(folder: Folder) -> Study:
    spec = folder.read_json(SPEC)
    rows = _journal(folder)
    try:
        space = Space.from_json(spec["space"])
        name = folder.name
        epochs = _epochs(rows, name, space.name)
        return Study(name, folder, spec, _trials(rows, epochs, name, spec, space), epochs)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"A study's directory must be whole, but {folder.path} is not ({type(error).__name__}: {error}). "
            f"Restore it from a copy."
        ) from error


def _journal(folder: Folder) -> list[dict[str, Any]]:
    """All rows in their order. In an object store the latest ones lie apart: see `search.mirror`."""
    found = {row["seq"]: row for name in (TRIALS, EPOCHS) for row in _rows(folder, name)}
    if not isinstance(folder.filesystem, fs.LocalFileSystem):
        apart = folder / ROWS
        found |= {row["seq"]: row for name in apart.files() for row in [apart.read_json(name)]}
    return [found[seq] for seq in sorted(found)]


def _rows(folder: Folder, name: str) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal file: a last one that is cut off is being written, or was when the machine died."""
    if not folder.has(name):
        return
    *lines, _ = folder.read(name).split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise UserError(
                f"Every line of a journal must be JSON, but line {number} of {folder.path}/{name} is not ({error}). "
                f"Restore it from a copy."
            ) from error


def _epochs(rows: list[dict[str, Any]], study: str, family: str) -> pd.DataFrame:
    found: list[dict[str, Any]] = []
    worked, previous = 0.0, None
    for row in rows:
        if previous is not None and row["event"] != "session":
            worked += max(0.0, row["time"] - previous)
        previous = row["time"]
        if row["event"] == "epoch":
            found.append({**row, "study": study, "family": family, "study_seconds": worked})
    return _typed(pd.DataFrame(found), EPOCH_COLUMNS)


def _trials(
    rows: list[dict[str, Any]], epochs: pd.DataFrame, study: str, spec: Mapping[str, Any], space: Space
) -> pd.DataFrame:
    overrides = {baseline.name: baseline.settings for baseline in space.baselines}
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row["event"] == "started":
            origin, number = row["origin"], row["trial"]
            values = {**space.settings, **overrides.get(row["baseline"], {}), **row["params"]}
            found[number] = {
                **{key: row[key] for key in ("trial", "baseline", "origin", "seed")},
                "name": row["baseline"] or ("default" if origin == "default" else f"trial {number}"),
                "study": study,
                "family": space.name,
                "corpus": spec["data"]["corpus"],
                "task": spec["data"]["task"],
                "state": "running",
                "started": row["time"],
                "epochs": 0,
                **{f"param.{key}": value for key, value in row["params"].items()},
                **{f"config.{key}": value for key, value in values.items()},
            }
        elif row["event"] == "epoch" and row["trial"] in found:
            _take_epoch(found[row["trial"]], row)
        elif row["event"] == "ended" and row["trial"] in found:
            found[row["trial"]] |= {"state": row["state"], "reason": row["reason"], "ended": row["time"]}
    frame = pd.DataFrame(list(found.values()))
    table = _typed(frame, TRIAL_COLUMNS)
    table["full"] = table["state"].eq("complete").fillna(False).astype(bool)
    table["chosen"] = False
    full = table[table["full"]].sort_values(["score", "trial"], ascending=[False, True])
    table.loc[full.index[:1], "chosen"] = True
    return pd.concat([table, *_value_columns(frame, space)], axis=1)


def _take_epoch(trial: dict[str, Any], row: Mapping[str, Any]) -> None:
    """Adds what an epoch says to its trial. An epoch that failed has no score, and none of its numbers counts."""
    trial["epochs"] = row["epoch"]
    trial["train_seconds"] = trial.get("train_seconds", 0.0) + row["epoch_seconds"]
    trial["memory_bytes"] = max(trial.get("memory_bytes", 0), row.get("memory_bytes") or 0)
    trial["node"] = row.get("node")
    if row.get("trainable_parameters") is not None:
        trial["trainable_parameters"] = row["trainable_parameters"]
    if row["rung"] is not None:
        trial["rung"] = row["rung"]
    if row["failure"] is not None:
        return
    trial |= {"score": row["score"], "best_epoch": row["best_epoch"], "learning_rate_last": row["learning_rate"]}
    numbers = {f"{split}_{metric}": row[f"{split}_{metric}"] for split in ("train", "tune") for metric in METRICS}
    trial |= {f"last_{key}": value for key, value in numbers.items()}
    if row["best_epoch"] == row["epoch"]:
        trial |= {f"best_{key}": value for key, value in numbers.items()}


def _value_columns(frame: pd.DataFrame, space: Space) -> Iterator[pd.DataFrame]:
    """The columns `param.…` and `config.…`, in the space's order, typed as their domains are."""
    domains = {param.name: param for param in space.params}
    for prefix in ("param", "config"):
        names = [name for name in (*domains, *space.settings) if f"{prefix}.{name}" in frame]
        extra = [str(name)[len(prefix) + 1 :] for name in frame if str(name).startswith(f"{prefix}.")]
        names += sorted(set(extra) - set(names))
        columns = {
            f"{prefix}.{name}": _as_type(frame[f"{prefix}.{name}"], _kind(domains.get(name), frame, prefix, name))
            for name in names
        }
        yield pd.DataFrame(columns, index=frame.index)


def _kind(param: Param | None, frame: pd.DataFrame, prefix: str, name: str) -> str:
    """The type of a value's column: that of its domain or, for a setting, of what stands there."""
    if param is not None and isinstance(param.domain, Float):
        return "Float64"
    if param is not None and isinstance(param.domain, Int):
        return "Int64"
    values = list(param.domain.options) if param is not None and isinstance(param.domain, Choice) else []
    values += [value for value in frame[f"{prefix}.{name}"] if value is not None and value == value]
    if all(isinstance(value, int) for value in values):
        return "Int64"
    return "Float64" if all(isinstance(value, int | float) for value in values) else "str"


def _typed(frame: pd.DataFrame, columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """These columns and no others, in this order, each with its type; a missing one is empty."""
    index = frame.index
    return pd.DataFrame(
        {
            name: _as_type(frame[name] if name in frame else pd.Series(None, index=index, dtype=object), kind)
            for name, (kind, _) in columns.items()
        },
        index=index,
    )


def _as_type(values: Any, kind: Any) -> Any:
    if kind.startswith("datetime"):
        return pd.to_datetime(pd.to_numeric(values), unit="s", utc=True).astype(kind)
    if kind in ("Int64", "Float64"):
        return pd.to_numeric(values).astype(kind)
    if kind == "bool":
        return values.fillna(False).astype(bool)
    return values.astype("str")


def _stacked(frames: list[pd.DataFrame], columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Tables one below the other. Columns that all rows of a table miss take the type that they have elsewhere."""
    names = list(columns) + sorted({str(name) for frame in frames for name in frame} - set(columns), key=_param_first)
    kinds = {name: frame[name].dtype for frame in frames for name in frame}
    widened = [frame.reindex(columns=names).astype(kinds) for frame in frames]
    return pd.concat(widened, ignore_index=True)


def _param_first(name: str) -> tuple[bool, str]:
    return (not name.startswith("param."), name)


def _models(study: Study) -> Iterator[Model]:
    best = study.folder / "best"
    places: Iterable[tuple[Folder, bool]] = [
        (best, True),
        *((best / BASELINES / name, False) for name in (best / BASELINES).folders()),
    ]
    for folder, chosen in places:
        if folder.has("metrics.json"):  # it is written last: its presence means that all is there
            metrics = folder.read_json("metrics.json")
            yield Model(
                study=study.name,
                family=study.family,
                trial=metrics["trial"],
                baseline=metrics["baseline"],
                chosen=chosen,
                metrics=metrics,
                config=folder.read_json("config.json"),
                folder=folder,
            )
