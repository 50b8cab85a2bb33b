"""The tables of a study: their columns, and how they are made of the journal's rows."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from spaces.domains import Choice, Float, Int, Param, Space

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
    "memory_bytes": ("Int64", "the most memory its process was seen to hold, what was kept of earlier trials included"),
    "gpu_share": ("Float64", "the part of a GPU's memory that it took at its peak, measured while it had one alone"),
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
    "memory_bytes": ("Int64", "the memory of its process afterwards, with what it keeps for its next trials"),
    "gpu_share": (
        "Float64",
        "the part of a GPU's memory that the trial took up to its last save, while it had one for itself",
    ),
    "node": ("str", "the machine that it ran on"),
    "rung": ("Int64", "the epoch's number where trials were compared there, else missing"),
    "decision": ("str", "continue, stop, complete or fail"),
    "failure": ("str", "why the trial failed in it"),
}


def epochs_of(rows: list[dict[str, Any]], study: str, family: str) -> pd.DataFrame:
    """A row per epoch, of all the journal's rows in their order, with the columns `EPOCH_COLUMNS`."""
    found: list[dict[str, Any]] = []
    worked, previous = 0.0, None
    for row in rows:
        if previous is not None and row["event"] != "session":
            worked += max(0.0, row["time"] - previous)
        previous = row["time"]
        if row["event"] == "epoch":
            found.append({**row, "study": study, "family": family, "study_seconds": worked})
    return _typed(pd.DataFrame(found), EPOCH_COLUMNS)


def trials_of(rows: list[dict[str, Any]], study: str, spec: Mapping[str, Any], space: Space) -> pd.DataFrame:
    """A row per trial, of all the journal's rows in their order: `TRIAL_COLUMNS`, then its values."""
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
    # Without a score, as where its epochs were lost, there is nothing to compare.
    table["full"] = table["state"].eq("complete").fillna(False).astype(bool) & table["score"].notna()
    table["chosen"] = False
    full = table[table["full"]].sort_values(["score", "trial"], ascending=[False, True])
    table.loc[full.index[:1], "chosen"] = True
    return pd.concat([table, *_value_columns(frame, space)], axis=1)


def _take_epoch(trial: dict[str, Any], row: Mapping[str, Any]) -> None:
    """Adds what an epoch says to its trial. An epoch that failed has no score, and none of its numbers counts."""
    trial["epochs"] = row["epoch"]
    trial["train_seconds"] = trial.get("train_seconds", 0.0) + row["epoch_seconds"]
    trial["memory_bytes"] = max(trial.get("memory_bytes", 0), row.get("memory_bytes") or 0)
    if row.get("gpu_share") is not None:
        trial["gpu_share"] = max(trial.get("gpu_share", 0.0), row["gpu_share"])
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


def stacked(frames: list[pd.DataFrame], columns: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Tables one below the other. Columns that all rows of a table miss take the type that they have elsewhere."""
    names = list(columns) + sorted({str(name) for frame in frames for name in frame} - set(columns), key=_param_first)
    kinds = {name: frame[name].dtype for frame in frames for name in frame}
    widened = [frame.reindex(columns=names).astype(kinds) for frame in frames]
    return pd.concat(widened, ignore_index=True)


def _param_first(name: str) -> tuple[bool, str]:
    return (not name.startswith("param."), name)
