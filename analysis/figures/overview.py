"""All studies side by side: the leaderboard, who leads by how much, score against cost, warnings, what went wrong."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis import predictions
from analysis.best import pareto
from analysis.figures import Figure, Item, Missing, Table, style
from analysis.figures.models import Scored, same_clips, scored
from analysis.figures.progress import MARKERS, ORIGINS, warnings_of
from analysis.load import Model, Studies, Study
from trainables.corpora.wording import counted

SPLITS = ("tune", "valid", "test")
QUARANTINED = 200  # rows shown
MANY = 500  # points beyond which they are drawn as pixels, or an SVG takes a browser seconds

Ticks = Callable[[float], str]
Steps = tuple[float, ...]


def items(studies: Studies) -> Iterator[Item]:
    """What is told of all studies together, in the report's order."""
    yield leaderboard(studies)
    yield leads(studies)
    parts = same_data(studies)
    for label, part in parts.items():
        where = f" ({label})" if len(parts) > 1 else ""
        for cost in COSTS:
            yield front(part, cost, where)
    yield warnings(studies)
    yield failures(studies)
    yield quarantined(studies)


def same_data(studies: Studies) -> dict[str, Studies]:
    """The studies by what they were trained and scored on, which the keys say: other scores do not compare."""
    parts: dict[str, list[Study]] = {}
    for study in studies.studies:
        own = {name: value for name, value in study.spec["data"].items() if name != "corpus"}  # the digest tells more
        parts.setdefault(f"{sorted(own.items())} {study.spec['classes']}", []).append(study)
    labels = [_data_label(part[0]) for part in parts.values()]
    named = [
        f"{label}, as in {part[0].name}" if labels.count(label) > 1 else label
        for label, part in zip(labels, parts.values(), strict=True)
    ]
    return {label: Studies(tuple(part)) for label, part in zip(named, parts.values(), strict=True)}


def _data_label(study: Study) -> str:
    data = study.spec["data"]
    return f"{data['corpus']}, {data['task']}, {data['split']} split"


def leaderboard(studies: Studies) -> Item:
    """Every chosen model and published recipe; those on the same data together, each part sorted by tune."""
    name, title = "leaderboard", "Leaderboard"
    if not studies.models:
        return Missing(name, title, "No model has been scored yet: no study has finished with a trial at full length.")
    parts = same_data(studies)
    rows = [_board_row(model, label) for label, part in parts.items() for model in part.models]
    table = pd.DataFrame(rows).astype({"parameters": "Int64"})
    if len(parts) == 1:
        table = table.drop(columns="data")
    if (table["study"] == table["family"]).all():
        table = table.drop(columns="study")
    words = (
        "Sorted by balanced accuracy on tune, by which each was chosen; test decided nothing. "
        f"{_sizes(studies)} The interval (95 %) is that of the balanced accuracy on test, from resampling groups and "
        "the clips in them. training_seconds is the time that its epochs took, prediction_ms the median time to answer "
        "a recording by itself, features included, each on the machine of its study. Changes name what of a recipe is "
        "not as published. Chosen models stand out."
    )
    if len(parts) > 1:
        words = f"The studies are of different data, which the column data names: compare only within it. {words}"
    formats = {str(column): ".3f" for column in table if str(column).startswith(SPLITS)}
    formats |= {"parameters": ",", "training_seconds": ",.1f", "prediction_ms": ".3f"}
    marked = frozenset(row for row, kind in enumerate(table["kind"]) if kind != "published")
    return Table(name, title, words, table, formats, marked)


def _board_row(model: Model, data: str) -> dict[str, Any]:
    """Scores are computed from the stored predictions, like those of all other figures and tables."""
    metrics = model.metrics
    rows = {split: predictions.part(model.predictions, split) for split in SPLITS}
    found = {split: predictions.overall(part) for split, part in rows.items() if len(part)}
    low, high = _interval(model) or (None, None)
    return {
        "study": model.study,
        "data": data,
        "family": model.family,
        "model": model.name,
        "kind": ("chosen, published" if model.baseline else "chosen") if model.chosen else "published",
        **{
            f"{split}_{metric}": getattr(found.get(split), metric, None)
            for metric in ("balanced_accuracy", "accuracy")
            for split in SPLITS
        },
        "test_interval_low": low,
        "test_interval_high": high,
        "test_macro_f1": getattr(found.get("test"), "macro_f1", None),
        "parameters": metrics["trainable_parameters"],
        "training_seconds": metrics["training_seconds"],
        "prediction_ms": metrics["prediction_ms"],
        "changes": model.changes,
    }


def _interval(model: Model) -> tuple[float, float] | None:
    """Of balanced accuracy on test, drawn as in every other figure; what an older study stored may differ a little."""
    rows = predictions.part(model.predictions, "test")
    return predictions.interval(rows, predictions.right(rows), balanced=True) if len(rows) else None


def _sizes(studies: Studies) -> str:
    """How many clips and groups each split holds; a range where models differ."""
    words = []
    for split in SPLITS:
        found = [model.metrics["splits"][split] for model in studies.models if split in model.metrics["splits"]]
        if found:
            clips, groups = ([part[key] for part in found] for key in ("clips", "groups"))
            words.append(f"{split} {_span(clips)} clips of {_span(groups)} groups")
    models = counted(len(studies.models), "model", "models")
    return f"n = {models}, {counted(len(studies.studies), 'study', 'studies')}; {', '.join(words)}."


def _span(numbers: list[int]) -> str:
    return f"{min(numbers):,}" if min(numbers) == max(numbers) else f"{min(numbers):,} to {max(numbers):,}"


def leads(studies: Studies) -> Item:
    """How far each chosen model is ahead of the first on tune, and of the best published recipe, on the same clips."""
    name, title = "leads", "Leads on test"
    groups = same_clips(scored(studies))
    rows = [_lead_row(one, other) for models in groups for one, other in _pairs(models)]
    if len(studies.studies) == 1:
        rows = [{name: value for name, value in row.items() if "study" not in name} for row in rows]
    if not rows:
        reason = (
            "There are no two models to compare: that takes a chosen model and another one scored on the same clips."
        )
        return Missing(name, title, reason)
    words = (
        "How far each chosen model is ahead of the one that leads the leaderboard, and of the published recipe that "
        "was best on tune: the difference of their balanced accuracies on test and its 95 % interval, both models "
        "scored on the same resampled groups and clips. The intervals tell how much hangs on the choice of test clips, "
        f"not on the seed of the training. Each holds by itself; n = {counted(len(rows), 'comparison', 'comparisons')}."
    )
    if len(groups) > 1:
        parts = [", ".join(dict.fromkeys(model.study.name for model in models)) for models in groups]
        words = (
            f"Not all studies were scored on the same test clips, and models are compared only where they were: "
            f"{'; '.join(parts)}. {words}"
        )
    return Table(name, title, words, pd.DataFrame(rows), dict.fromkeys(("difference", "low", "high"), "+.3f"))


def _pairs(models: list[Scored]) -> Iterator[tuple[Scored, Scored]]:
    """Whom to compare with whom among models on the same clips, best on tune first."""
    chosen = [model for model in models if model.model.chosen]
    recipes = [model for model in models if model.model.baseline]
    against = [*chosen[:1], *recipes[:1]]
    if len(against) == 2 and against[0] is against[1]:
        against = recipes[:2]  # the leader is itself the best of the recipes, and is compared with the next
    for model in chosen:
        yield from ((model, other) for other in against if other is not model)


def _lead_row(one: Scored, other: Scored) -> dict[str, Any]:
    lead = predictions.disagreement(one.test, other.test)
    low, high = lead.interval or (None, None)
    return {
        "model": one.label,
        "study": one.study.name,
        "against": other.label,
        "against_study": other.study.name,
        "difference": lead.difference,
        "low": low,
        "high": high,
        "clips": len(one.test),
        "groups": one.test["group"].nunique(),
        "conclusion": conclusion(one.label, other.label, lead.interval),
    }


def conclusion(one: str, other: str, interval: predictions.Interval | None) -> str:
    """What may be concluded from the interval of a lead of `one` over `other`."""
    if interval is None:
        return "Nothing may be concluded: some class has a single clip, so there is no interval."
    low, high = interval
    words = "better than" if low > 0 else "worse than" if high < 0 else "not distinguishable from"
    return f"{one} is {words} {other}."


def front(studies: Studies, cost: str, where: str = "") -> Item:
    """Score against a cost for all full trials of studies on the same data, with the Pareto front."""
    label, _, _ = COSTS[cost]
    first = () if not where else (studies.studies[0].name,)
    name, title = style.file_name("front", label.replace(" ", "-"), *first), f"Score against {label}{where}"
    full = studies.trials[studies.trials["full"]]
    if full.empty:
        return Missing(name, title, "No trial has reached full length yet, and others cannot be compared.")
    data = front_data(studies, cost)
    if data.empty:
        return Missing(name, title, f"The studies do not tell the {label} of any trial at full length.")
    lost = len(full) - len(data)
    caption = (
        f"Balanced accuracy on tune against {label} of all trials trained in full{where}; n = "
        f"{counted(len(data), 'trial', 'trials')} of {counted(data['study'].nunique(), 'study', 'studies')}. The line "
        f"is the Pareto front: {counted(int(data['front'].sum()), 'trial', 'trials')}, ringed. No other is better "
        "than one of these in the one and at least as good in the other."
    )
    if cost == "train_seconds":
        caption += " Times depend on the machine and on what else ran on it."
    if lost:
        caption += f" Of {counted(lost, 'more', 'more')} the {label} or the score is not known."
    return Figure(name, title, caption, data, partial(draw_front, cost=cost))


def front_data(studies: Studies, cost: str) -> pd.DataFrame:
    """The full trials whose score and cost are known, cheapest first: who they are, both, and whether on the front."""
    trials = studies.trials
    data = trials.loc[trials["full"], ["study", "family", "trial", "name", "origin", "chosen", cost, "score"]]
    data = data.dropna(subset=[cost, "score"])
    data = data[data[cost] > 0]  # a logarithm is taken
    data = data.assign(front=pareto(data, cost))
    return data.sort_values([cost, "score", "study", "trial"], kind="stable").reset_index(drop=True)


def draw_front(data: pd.DataFrame, cost: str) -> Drawing:
    """Points in their family's colour, shaped by where they come from; the front as steps."""
    drawing = style.new(3.6)
    axes = drawing.subplots()
    for (family, origin), part in data.groupby(["family", "origin"], sort=True):
        for on_front, points in part.groupby("front", sort=True):
            axes.scatter(
                points[cost].astype(float),
                points["score"].astype(float),
                s=34 if on_front or origin != "sampled" else 18,
                marker=MARKERS[str(origin)],
                color=style.family_colour(str(family)),
                alpha=1.0 if on_front else 0.75,
                edgecolors=style.INK if on_front else "none",
                linewidths=0.9 if on_front else 0.0,
                zorder=4 if on_front else 3,
                rasterized=len(data) > MANY,
            )
    line = data[data["front"]]
    ends = float(data[cost].max())
    axes.step(
        [*line[cost].astype(float), ends],
        [*line["score"].astype(float), float(line["score"].iloc[-1])],
        where="post",
        color=style.INK,
        linewidth=1.0,
        zorder=2,
        label="Pareto front",
    )
    for family in data["family"].unique()[data["family"].unique().argsort()]:
        axes.plot([], [], "o", color=style.family_colour(family), label=style.shorten(family))
    for origin in (origin for origin in MARKERS if origin in set(data["origin"])):
        axes.plot([], [], MARKERS[origin], color=style.FAINT, label=ORIGINS[origin])
    label, steps, words = COSTS[cost]
    log_axis(axes, float(data[cost].min()), ends, steps, words)
    axes.set_xlabel(label)
    axes.set_ylabel("balanced accuracy, tune")
    style.legend_outside(axes)
    return drawing


def log_axis(axes: Axes, low: float, high: float, steps: Steps, words: Ticks) -> None:
    """A logarithmic x axis of at least a decade, with some room at its ends and about six labelled ticks.

    Of two that stand close, as a minute and 50 seconds do, the larger is labelled.
    """
    room = max((high / low) ** 0.05, (10 / (high / low)) ** 0.5, 1.15)
    low, high = low / room, high * room
    inside = [step for step in steps if low <= step <= high]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks: list[float] = []
    for step in reversed(inside[:: -(-len(inside) // 7)]):
        if not ticks or math.log(ticks[0] / step) > _TICK_ROOM * math.log(high / low):
            ticks.insert(0, step)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def short_count(number: float) -> str:
    """A number of weights in four characters or so."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def short_time(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.6g} {unit}"
    return f"{seconds:.3g} s"


_TICK_ROOM = 0.08  # of an axis, for a label
_LADDER = tuple(float(f"{digit}e{power}") for power in range(-4, 13) for digit in (1, 2, 5))
_TIMES = (
    *(step for step in _LADDER if step < 60),
    *(60.0 * step for step in (1, 2, 5, 10, 20)),
    *(3600.0 * step for step in _LADDER if step >= 0.5),
)


COSTS: dict[str, tuple[str, Steps, Ticks]] = {
    "trainable_parameters": ("parameters", _LADDER, short_count),
    "train_seconds": ("training time", _TIMES, short_time),
}


def warnings(studies: Studies) -> Item:
    """What a reader should know before believing the numbers."""
    name, title = "warnings", "Warnings"
    rows = [(study.name, sentence) for study in studies.studies for sentence in (*study.damaged, *warnings_of(study))]
    if not rows:
        return Missing(name, title, "There is nothing to warn of.")
    count = counted(len({study for study, _ in rows}), "study", "studies")
    words = f"What to know before believing the numbers; of {count} out of {len(studies.studies)}. Scores are of tune."
    return Table(name, title, words, pd.DataFrame(rows, columns=["study", "warning"]))


def failures(studies: Studies) -> Item:
    """The trials that failed, when and why."""
    name, title = "failures", "Failed trials"
    trials = studies.trials
    failed = trials[trials["state"] == "failed"]
    if failed.empty:
        return Missing(name, title, f"None of {counted(len(trials), 'trial', 'trials')} failed.")
    words = (
        f"{len(failed):,} of {counted(len(trials), 'trial', 'trials')} failed: in which epoch (0 if none was finished) "
        "and why. Failed trials are never chosen."
    )
    columns = {"study": "study", "trial": "trial", "name": "name", "epochs": "epoch", "reason": "reason"}
    table = failed[list(columns)].rename(columns=columns).reset_index(drop=True)
    return Table(name, title, words, table.assign(reason=table["reason"].fillna("")))


def quarantined(studies: Studies) -> Item:
    """The recordings that were left out, once each however many studies left them out."""
    name, title = "quarantine", "Recordings left out"
    frames = [study.quarantine.assign(studies=study.name) for study in studies.studies if len(study.quarantine)]
    if not frames:
        return Missing(name, title, "No recording had to be left out.")
    every = pd.concat(frames, ignore_index=True)
    columns = [column for column in every if column != "studies"]
    table = every.groupby(columns, sort=False, dropna=False)["studies"].agg(", ".join).reset_index()
    if len(studies.studies) > 1:
        everywhere = ", ".join(study.name for study in studies.studies)
        table["studies"] = table["studies"].where(table["studies"] != everywhere, "all")
    words = f"{counted(len(table), 'recording', 'recordings')} could not be used and took part in nothing, and why."
    if len(table) > QUARANTINED:
        words += f" The first {QUARANTINED} are shown; the studies' quarantine.csv names all."
    return Table(name, title, words, table.head(QUARANTINED))
