"""What the files of a study must hold. It is checked once, as they are read, so that nothing else need expect less."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.tables import METRICS
from trainables.errors import UserError
from trainables.scoring import classes_of

_HUGE = 2**63

Is = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_HUGE < value < _HUGE


def _count(value: Any) -> bool:
    return isinstance(value, int) and _number(value) and value >= 0


def _share(value: Any) -> bool:
    return _number(value) and 0 <= value <= 1


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _maybe(what: Is) -> Is:
    return lambda value: value is None or what(value)


def _all(what: Is) -> Is:
    return lambda value: isinstance(value, list) and all(map(what, value))


def _several(what: Is) -> Is:
    return lambda value: _all(what)(value) and len(value) > 0


def _classes(value: Any) -> bool:
    return _several(_text)(value) and len(set(value)) == len(value)


def _shares(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_share, value.values()))


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(_count(count) and count > 0 for count in value.values())


def _limits(value: Any) -> bool:
    return _several(_number)(value) and len(value) == 2


def _one_of(*words: str) -> Is:
    return lambda value: value in words


_ORIGIN = _one_of("published", "default", "sampled")

# What earlier versions did not write need not be there.
STUDY: Mapping[str, Is] = {
    "space": _object, "data": _object, "trials": _count, "max_epochs": _count, "grace_epochs": _count,
    "reduction_factor": _count, "rungs": _several(_count), "classes": _classes, "splits": _object, "created": _text,
    "commit": _maybe(_text),
}  # fmt: skip
STUDY_LATER: Mapping[str, Is] = {"fixed": _all(_text), "majority_share": _shares}
DATA: Mapping[str, Is] = {"corpus": _text, "task": _text, "split": _text}
SPLIT: Mapping[str, Is] = {"clips": _count, "groups": _count}
SPLIT_LATER: Mapping[str, Is] = {"groups_by_class": _counts}
ROW: Mapping[str, Is] = {"seq": _count, "time": _number, "event": _text}
EVENTS: Mapping[str, Mapping[str, Is]] = {
    "started": {"trial": _count, "params": _object, "baseline": _maybe(_text), "origin": _ORIGIN, "seed": _number},
    "epoch": {
        "trial": _count, "epoch": _count, "best_epoch": _count, "learning_rate": _number, "epoch_seconds": _number,
        "rung": _maybe(_count), "decision": _one_of("continue", "stop", "complete", "fail"), "failure": _maybe(_text),
        **{f"{split}_{metric}": _maybe(_number) for split in ("train", "tune") for metric in METRICS},
        "score": _share, "tune_balanced_accuracy": _maybe(_share),
    },
    "ended": {"trial": _count, "state": _one_of("complete", "pruned", "failed"), "reason": _maybe(_text)},
}  # fmt: skip
MODEL: Mapping[str, Is] = {
    "trial": _count, "baseline": _maybe(_text), "origin": _ORIGIN, "score": _share, "best_epoch": _count,
    "epochs": _count, "trainable_parameters": _count, "training_seconds": _number, "prediction_ms": _number,
    "params": _object, "changes": _all(_text), "splits": _object,
}  # fmt: skip
SCORES: Mapping[str, Is] = {
    **SPLIT, "accuracy": _share, "balanced_accuracy": _share, "macro_f1": _share, "cross_entropy": _number,
    "balanced_accuracy_interval": _maybe(_limits),
}  # fmt: skip
CONFIG: Mapping[str, Is] = {"config": _object, "classes": _classes}
CONFIG_LATER: Mapping[str, Is] = {"layers": _all(_object)}
LAYER: Mapping[str, Is] = {
    "name": _text, "kind": _text, "output_shape": _maybe(_all(_count)), "parameters": _count, "trainable": _count
}  # fmt: skip
CONFIG_DATA: Mapping[str, Is] = {
    **DATA, "digest": _text, "split_seed": _number, "keep_synth_lead": lambda value: value in (0, 1)
}  # fmt: skip


def damaged(file: str, what: str) -> UserError:
    """What is said of a file that is not as a search writes it."""
    return UserError(f"A study's directory must be whole, but {file} is not: {what}. Restore it from a copy.")


def require(content: Any, kinds: Mapping[str, Is], file: str) -> None:
    """Raises UserError unless `content` is an object with at least these values, each of its kind."""
    if not isinstance(content, dict):
        raise damaged(file, f"{reprlib.repr(content)} is no object")
    for name, fits in kinds.items():
        if name not in content:
            raise damaged(file, f"{name!r} is missing")
        if not fits(content[name]):
            raise damaged(file, f"{name!r} may not be {reprlib.repr(content[name])}")


def _allow(content: Mapping[str, Any], kinds: Mapping[str, Is], file: str) -> None:
    """The same for values that need not be there."""
    require(content, {name: fits for name, fits in kinds.items() if name in content}, file)


def study(spec: Any, file: str) -> None:
    """Raises UserError unless this is a `study.json`."""
    require(spec, STUDY, file)
    _allow(spec, STUDY_LATER, file)
    require(spec["data"], DATA, f"data of {file}")
    for name, split in spec["splits"].items():
        require(split, SPLIT, f"split {name} of {file}")
        _allow(split, SPLIT_LATER, f"split {name} of {file}")


def row(content: Any, file: str) -> None:
    """Raises UserError unless this is a journal's row."""
    require(content, ROW, file)
    require(content, EVENTS.get(content["event"], {}), file)


def model(metrics: Any, config: Any, folder: str) -> None:
    """Raises UserError unless these are a `metrics.json` and a `config.json`."""
    file = f"{folder}/metrics.json"
    require(metrics, MODEL, file)
    for name, scores in metrics["splits"].items():
        require(scores, SCORES, f"split {name} of {file}")
    file = f"{folder}/config.json"
    require(config, CONFIG, file)
    require(config["config"], {"data": _object}, file)
    require(config["config"]["data"], CONFIG_DATA, f"data of {file}")
    _allow(config, CONFIG_LATER, file)
    for layer in config.get("layers", []):
        require(layer, LAYER, f"a layer of {file}")


def predictions(table: pd.DataFrame, named: Sequence[str], file: str) -> None:
    """Raises UserError unless these are predictions of these classes, as `trainables.evaluate.predict` makes them."""
    columns = ["name", "split", "group", "true", "predicted"]
    missing = [name for name in columns if name not in table]
    classes = classes_of(table)
    if missing or not classes:
        raise damaged(file, f"the column {missing[0]!r} is missing" if missing else "it has no probabilities")
    if set(classes) != set(named):
        raise damaged(file, f"its classes are {reprlib.repr(classes)}, its model's {reprlib.repr(list(named))}")
    if table.empty or table[columns].isna().any(axis=None):
        raise damaged(file, "it has no rows" if table.empty else "some of its cells are empty")
    if not all(pd.api.types.is_numeric_dtype(table[f"p_{name}"]) for name in classes):
        raise damaged(file, "some of its probabilities are no numbers")
    for column, known in (("predicted", classes), ("true", [*classes, ""])):
        others = table.loc[~table[column].isin(known), column]
        if len(others):
            raise damaged(file, f"{reprlib.repr(str(others.iloc[0]))} in {column!r} is none of its classes")
