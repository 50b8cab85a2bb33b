"""The specification of a study: everything that decides what it tries, resolved, before the first trial."""

import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import spaces
from search.scheduler import rung_epochs
from spaces.domains import Baseline, Params, Space
from trainables.config import DataConfig, TrialConfig, point, resolve
from trainables.corpora.splits import Split
from trainables.corpora.store import Store
from trainables.errors import UserError, guess

METRIC = {"name": "tune_balanced_accuracy", "mode": "max"}


@dataclass(frozen=True)
class StudySpec:
    """What a study is. `only` names the one baseline it consists of, if it does; `fixed` what `--fix` restricted.

    `weights` says where a pretrained network's come from ("" for other families).

    `cpus_per_trial` is the number of threads of a trial and so decides its last digits.
    """

    name: str
    space: Space
    data: DataConfig
    trials: int
    max_epochs: int
    grace_epochs: int
    reduction_factor: int
    seed: int
    cpus_per_trial: int
    with_baselines: bool
    only: str | None = None
    fixed: tuple[str, ...] = ()
    weights: str = ""

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which trials are compared, the last being full length."""
        return rung_epochs(self.max_epochs, self.grace_epochs, self.reduction_factor)

    @cached_property
    def baselines(self) -> tuple[Baseline, ...]:
        """The published recipes that are this study's first trials."""
        if self.only:
            return tuple(baseline for baseline in self.space.baselines if baseline.name == self.only)
        return self.space.baselines_for(self.data.task) if self.with_baselines else ()

    def config(self, params: Params, baseline: str | None, seed: int) -> TrialConfig:
        """The resolved configuration of one trial."""
        return resolve(self.point(params, baseline, seed))

    def point(self, params: Params, baseline: str | None, seed: int) -> dict[str, Any]:
        """What a worker resolves to the configuration of one trial."""
        overrides = next((b.settings for b in self.space.baselines if b.name == baseline), None)
        return point(
            self.space,
            params,
            data=self.data,
            seed=seed,
            max_epochs=self.max_epochs,
            threads=self.cpus_per_trial,
            overrides=overrides,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record from which `from_json` makes an equal specification."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "space": self.space.to_json(), "data": asdict(self.data), "fixed": list(self.fixed)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "StudySpec":
        """The specification that `to_json` recorded."""
        fields = {name: record[name] for name in cls.__dataclass_fields__}
        space, data = Space.from_json(record["space"]), DataConfig(**record["data"])
        return cls(**{**fields, "space": space, "data": data, "fixed": tuple(record["fixed"])})


def unstopped(spec: StudySpec) -> int:
    """How many trials train in full whatever they score: the published recipes and the default point."""
    return min(len(spec.baselines) + (not spec.only), spec.trials)


def rung_table(spec: StudySpec) -> list[tuple[int, int]]:
    """How many trials are expected to arrive at each rung; those that are never stopped arrive at all of them."""
    full = unstopped(spec)
    left = float(spec.trials - full)
    table = []
    for rung in spec.rungs:
        table.append((rung, full + round(left)))
        left = max(left / spec.reduction_factor, min(left, 1.0))
    return table


def expected_epochs(spec: StudySpec) -> tuple[int, int]:
    """Epochs that the trials which are never stopped train, and those that the others are expected to."""
    full = unstopped(spec)
    early, previous = 0, 0
    for rung, trials in rung_table(spec):
        early += (trials - full) * (rung - previous)
        previous = rung
    return full * spec.max_epochs, early


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """`name` if it is known; raises UserError naming the closest and all of them."""
    known = tuple(known)
    if name in known:
        return name
    raise UserError(f"The {kind} must be one of {', '.join(known)}, but is {name!r}.{guess(name, known)}")


def space_of_baseline(name: str) -> Space:
    """The space that holds a published baseline; raises UserError."""
    owners = {baseline.name: space for space in map(spaces.load, spaces.names()) for baseline in space.baselines}
    return owners[choose("baseline", name, owners)]


def record(spec: StudySpec, store: Store, split: Split) -> dict[str, Any]:
    """The content of `study.json`: the specification and the circumstances, for whoever reads it later."""
    return {
        "format": 1,
        **spec.to_json(),
        "metric": METRIC,
        "rungs": list(spec.rungs),
        "classes": list(split.classes),
        "splits": {
            name: {
                **split.summary[name],
                "group_names": sorted(set(split.groups[rows])),
                "groups_by_class": split.groups_by_class(name),
            }
            for name, rows in split.rows.items()
        },
        "majority_share": {name: split.majority_share(name) for name in split.rows},
        "quarantined": len(store.quarantine),
        "repaired": len(store.repairs),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit(),
        "versions": versions(),
    }


def commit() -> str | None:
    """The commit of the code, marked where the tree differs from it; None where neither git nor ETUDE_COMMIT tells."""
    if told := os.environ.get("ETUDE_COMMIT"):
        return told
    root = Path(__file__).parent.parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def versions() -> dict[str, str]:
    """The versions of what decides results."""
    packages = ("ray", "optuna", "torch", "torchaudio", "torchvision", "librosa", "numpy", "scikit-learn", "soxr")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


# What a resumed study may change: how long it goes on, and what it is called.
_MAY_CHANGE = ("name", "trials")


def check_unchanged(asked: StudySpec, existing: StudySpec) -> StudySpec:
    """The existing specification with what a resume may change; raises UserError that says what else differs."""
    changed = []
    for name in StudySpec.__dataclass_fields__:
        before, now = getattr(existing, name), getattr(asked, name)
        if name in _MAY_CHANGE or before == now or (name == "space" and existing.data.digest != asked.data.digest):
            continue
        if name == "data":
            if before.digest != now.digest:
                changed.append(f"the recordings or labels of {now.corpus} are others")
            changed += [
                f"{key} was {value!r} and is {getattr(now, key)!r}"
                for key, value in asdict(before).items()
                if getattr(now, key) != value and key not in ("corpus", "digest", "split_seed")
            ]
        elif name == "space":
            changed.append(_space_change(before, now))
        else:
            changed.append(f"{name} was {before!r} and is {now!r}")
    if changed:
        raise UserError(
            f"A study keeps to what it began with, but for {existing.name} {'; '.join(changed)}. "
            f"Resume without the change, or choose another --name."
        )
    # The same corpus may lie elsewhere by now, and the study's folder may have been renamed.
    return replace(existing, name=asked.name, trials=asked.trials, data=asked.data)


def _space_change(before: Space, now: Space) -> str:
    if before.name != now.name:
        return f"the space was {before.name!r} and is {now.name!r}"
    old, new = ({param.name: param for param in space.params} for space in (before, now))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            domains = [str(p.domain) if p else "absent" for p in (old.get(name), new.get(name))]
            return f"the range of {name} was {domains[0]} and is {domains[1]}"
    return "the settings or baselines of its space have changed"
