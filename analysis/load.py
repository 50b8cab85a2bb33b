"""The trial dataframe: what a study's directory says, as tables. Needs neither Torch nor Ray.

    from analysis import load_study, load_studies
    study = load_study("studies/blstm-demo")
    study.trials, study.epochs

A study may be running, finished or killed, lie on a disk or in `s3://`; what it has so far is shown.
"""

import io
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from analysis import whole
from analysis.tables import EPOCH_COLUMNS as EPOCH_COLUMNS
from analysis.tables import TRIAL_COLUMNS as TRIAL_COLUMNS
from analysis.tables import epochs_of, stacked, trials_of
from search.records import BASELINES, EPOCHS, FAMILIES, ROWS, SPEC, TRIALS
from spaces.domains import Space
from trainables.errors import UserError
from trainables.folder import Folder, open_folder
from trainables.metrics import confusion_matrix, scores
from trainables.scoring import classes_of, codes

_QUARANTINE = ["split", "name", "path", "reason"]
_SAME = 1e-6  # scores that differ by less are equal


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
        """A row per clip of tune, valid and test, as `trainables.evaluate.predict` describes it; raises UserError."""
        file = f"{self.folder.path}/predictions.parquet"
        content = self.folder.read("predictions.parquet")
        try:
            table = pd.read_parquet(io.BytesIO(content))
        except (ArrowException, LookupError, OSError, ValueError) as error:
            raise whole.damaged(file, str(error).splitlines()[0]) from error
        whole.predictions(table, self.config["classes"], file)
        return table


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
        found = self._found[0]
        chosen = {model.trial for model in found if model.chosen}
        return tuple(model for model in found if model.chosen or model.trial not in chosen)

    @property
    def damaged(self) -> tuple[str, ...]:
        """A sentence or two for each model that cannot be shown, or whose numbers are not those of its predictions."""
        return tuple(self._found[1])

    @cached_property
    def _found(self) -> tuple[list[Model], list[str]]:
        """The scored models that can be shown, and what is wrong with these and with others."""
        models: list[Model] = []
        wrong: list[str] = []
        for folder, chosen in _places(self):
            try:
                model = _model(self, folder, chosen)
                wrong += _disagreements(model)
                models.append(model)
            except UserError as error:
                wrong.append(f"A scored model is left out. {error}")
        return models, wrong

    @cached_property
    def quarantine(self) -> pd.DataFrame:
        """The recordings that were left out: `split`, `name`, `path`, `reason`; raises UserError."""
        content = self.folder.read("quarantine.csv") if self.folder.has("quarantine.csv") else b""
        if not content:
            return pd.DataFrame(columns=_QUARANTINE)
        file = f"{self.folder.path}/quarantine.csv"
        try:
            table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
        except ValueError as error:
            raise whole.damaged(file, str(error).splitlines()[0]) from error
        if missing := [name for name in _QUARANTINE if name not in table]:
            raise whole.damaged(file, f"the column {missing[0]!r} is missing")
        return table


@dataclass(frozen=True)
class Studies:
    """Several studies, the tables one below the other."""

    studies: tuple[Study, ...]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial; a parameter that a family does not have is missing."""
        return stacked([study.trials for study in self.studies], TRIAL_COLUMNS)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """A row per epoch."""
        return stacked([study.epochs for study in self.studies], EPOCH_COLUMNS)

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """All scored models, the best on tune first."""
        found = [model for study in self.studies for model in study.models]
        return tuple(sorted(found, key=lambda model: (-model.metrics["score"], model.study, model.trial)))


def load_study(location: str | Path) -> Study:
    """One study from its directory; raises UserError where there is none, or where it is damaged."""
    folder = open_folder(location)
    if folder.has(SPEC):
        return _load(folder, *_names([folder]))
    if inner := _family_folders(folder):
        names = ", ".join(found.name for found in inner)
        raise UserError(
            f"One study is needed, but {location} holds several: {names}. Name one of them, or use load_studies."
        )
    raise UserError(f"A study's directory must hold {SPEC}, but {location} does not. Check the path.")


def load_studies(*locations: str | Path) -> Studies:
    """The studies in these directories; that of a comparison stands for its families. Raises UserError.

    Of studies that have the same name, as families of two comparisons may, each gets its parent's name before its own,
    and so on until they differ. A study is there once, however often and by whatever path it is named.
    """
    seen: dict[str, Folder] = {}
    for folder in (found for location in locations for found in _study_folders(location)):
        seen.setdefault(folder.identity, folder)
    if not seen:
        raise UserError("At least one study must be named, but there is none.")
    folders = list(seen.values())
    return Studies(tuple(_load(folder, name) for folder, name in zip(folders, _names(folders), strict=True)))


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
    if not folder.has(FAMILIES):
        return [folder / name for name in folder.folders() if (folder / name).has(SPEC)]
    names, file = folder.read_json(FAMILIES).get("families"), f"{folder.path}/{FAMILIES}"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise whole.damaged(file, "it has no list of families")
    if strange := [name for name in names if name in ("", ".", "..") or "/" in name]:
        raise whole.damaged(file, f"{strange[0]!r} is no family")
    return [folder / name for name in names if (folder / name).has(SPEC)]


def _names(folders: list[Folder]) -> list[str]:
    """A name for each folder, no two alike: its own, with those of its parents as far as needed, at last a number."""
    # What is no text, in the names of folders as old systems left them, could not be written.
    parts = [folder.path.encode(errors="backslashreplace").decode().rstrip("/").split("/") for folder in folders]
    lengths, longer = [0] * len(parts), [1] * len(parts)
    while lengths != longer:
        lengths = longer
        names = ["/".join(part[-length:]) for part, length in zip(parts, lengths, strict=True)]
        longer = [
            min(length + 1, len(part)) if names.count(name) > 1 else length
            for name, part, length in zip(names, parts, lengths, strict=True)
        ]
    found: list[str] = []
    for name in names:
        numbers = (f"{name} #{number}" for number in itertools.count(2))
        found.append(name if name not in found else next(other for other in numbers if other not in (*found, *names)))
    assert len(set(found)) == len(folders), "a study is told from others by its name"
    return found


def _load(folder: Folder, name: str) -> Study:
    spec, file = folder.read_json(SPEC), f"{folder.path}/{SPEC}"
    whole.study(spec, file)
    try:
        space = Space.from_json(spec["space"])
        rows, file = _journal(folder), f"{folder.path}/{TRIALS} or {EPOCHS}"
        epochs = epochs_of(rows, name, space.name)
        study = Study(name, folder, spec, trials_of(rows, name, spec, space), epochs)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise whole.damaged(file, f"{type(error).__name__}: {error}") from error
    _fill_parameters(study)
    return study


def _journal(folder: Folder) -> list[dict[str, Any]]:
    """All rows in their order. In an object store, and so in a copy from there, the latest ones may lie apart."""
    rows = [row for name in (TRIALS, EPOCHS) for row in _rows(folder, name)]
    apart = folder / ROWS
    for name in apart.files():
        rows.append(apart.read_json(name))
        whole.row(rows[-1], f"{apart.path}/{name}")
    found = {row["seq"]: row for row in rows}
    return [found[seq] for seq in sorted(found)]


def _rows(folder: Folder, name: str) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal file: a last one that is cut off is being written, or was when the machine died."""
    if not folder.has(name):
        return
    *lines, _ = folder.read(name).split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (RecursionError, ValueError) as error:
            raise UserError(
                f"Every line of a journal must be JSON, but line {number} of {folder.path}/{name} is not ({error}). "
                f"Restore it from a copy."
            ) from error
        whole.row(row, f"line {number} of {folder.path}/{name}")
        yield row


def _fill_parameters(study: Study) -> None:
    """Earlier studies named the number of weights in the scores of their models only."""
    trials = study.trials
    if trials.loc[trials["full"], "trainable_parameters"].isna().any():
        for model in study.models:
            trials.loc[trials["trial"] == model.trial, "trainable_parameters"] = model.metrics["trainable_parameters"]


def _places(study: Study) -> Iterator[tuple[Folder, bool]]:
    """The folders of scored models, and whether each is that of the chosen one."""
    best = study.folder / "best"
    baselines = best / BASELINES
    for folder, chosen in ((best, True), *((baselines / name, False) for name in baselines.folders())):
        if folder.has("metrics.json"):  # it is written last: its presence means that all is there
            yield folder, chosen


def _model(study: Study, folder: Folder, chosen: bool) -> Model:
    """A scored model; raises UserError where it is not whole, or not of the trial that it should be of."""
    metrics, config = folder.read_json("metrics.json"), folder.read_json("config.json")
    whole.model(metrics, config, folder.path)
    trial, baseline = metrics["trial"], metrics["baseline"]
    wanted = study.trials[study.trials["chosen" if chosen else "full"]]
    if not chosen:
        wanted = wanted[wanted["baseline"] == folder.name]
    rows = wanted[["trial", "baseline"]].to_dict("records")
    known = {int(row["trial"]): row["baseline"] if row["baseline"] == row["baseline"] else None for row in rows}
    if trial not in known or known[trial] != baseline:
        whose = " or ".join(f"trial {number}" for number in known) or "a trial that was trained in full"
        raise UserError(
            f"{folder.path}/metrics.json must be of {whose}, but is of trial {trial}, {baseline or 'no recipe'}. "
            f"Going on with the search scores what is missing."
        )
    model = Model(study.name, study.family, trial, baseline, chosen, metrics, config, folder)
    _ = model.predictions  # read now, so that a model that is shown has them
    return model


def _disagreements(model: Model) -> Iterator[str]:
    """Where the stored balanced accuracies are not those of the stored predictions."""
    classes = classes_of(model.predictions)
    known = model.predictions[model.predictions["true"] != ""]
    for split, rows in known.groupby("split", sort=False):
        true, predicted = codes(rows["true"], classes), codes(rows["predicted"], classes)
        found = scores(confusion_matrix(true, predicted, len(classes))).balanced_accuracy
        stored = model.metrics["splits"].get(split, {}).get("balanced_accuracy", found)
        if abs(stored - found) > _SAME:
            yield (
                f"The stored balanced accuracy of {model.name} on {split} must be that of its stored predictions, "
                f"{found:.6f}, but {model.folder.path}/metrics.json says {stored:.6f}. One of the files was changed."
            )
