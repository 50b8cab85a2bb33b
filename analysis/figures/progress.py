"""How each study went: its incumbent, whom ASHA stopped, the learning curves of all trials, and what to warn of."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Drawing
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from analysis.figures import Figure, Item, Missing, style
from analysis.load import Studies, Study
from trainables.corpora.splits import few_groups
from trainables.corpora.wording import counted

MANY = 100  # curves beyond which they are drawn as pixels, or an SVG takes a browser seconds

MARKERS = {"published": "s", "default": "D", "sampled": "o"}
ORIGINS = {"published": "published recipe", "default": "default", "sampled": "sampled"}
OUTLINE = withStroke(linewidth=3.6, foreground=style.INK)
STATES = {"pruned": "stopped early", "failed": "failed", "running": "unfinished"}  # beside the complete ones


def items(studies: Studies) -> Iterator[Item]:
    """What is told of the course of each study, in the report's order."""
    for study in studies.studies:
        yield incumbent(study)
        yield survival(study)
        yield curves(study)


def groups_by_class(study: Study, split: str) -> dict[str, int]:
    """How many groups each class of a split has; of a study of an early version, which does not tell, nothing."""
    found: dict[str, int] = study.spec["splits"].get(split, {}).get("groups_by_class", {})
    return found


def chance(study: Study, split: str = "tune") -> float:
    """The balanced accuracy of a model that always names one class that a split has."""
    return 1 / len(groups_by_class(study, split) or study.spec["classes"])


def chance_words(study: Study) -> str:
    """Chance on tune and whence it comes; the mean is over the classes that tune has."""
    classes = len(study.spec["classes"])
    there = len(groups_by_class(study, "tune")) or classes
    of = f"{there} of {classes} classes, which tune has" if there < classes else f"{classes} classes"
    return f"{chance(study):.3f} for {of}"


def states(study: Study) -> str:
    """How many trials there are, and of each state, in words."""
    found = study.trials["state"].value_counts()
    words = {"complete": "trained in full", **STATES}
    parts = ", ".join(f"{found[state]} {said}" for state, said in words.items() if state in found)
    return f"{counted(len(study.trials), 'trial', 'trials')}{': ' * bool(parts)}{parts}"


def incumbent(study: Study) -> Item:
    """The best full trial so far over trials and over time, among the scores of all."""
    name, title = style.file_name("incumbent", study.name), f"Incumbent: {study.name}"
    if not study.trials["full"].any():
        return Missing(name, title, f"No trial of {study.name} has reached full length yet, so there is no incumbent.")
    data = incumbent_data(study)
    words = "The dashed line is the default's score."
    if not (study.trials["full"] & (study.trials["origin"] == "default")).any():
        words = "The default has not been trained in full, so no line shows its score."
    caption = (
        f"Balanced accuracy on tune of all trials of {study.name} that have a score, in the order in which they began "
        f"(left) and by the time at which each was last heard of (right). n = {states(study)}. The line is the "
        "incumbent, which the study would choose: the best of the trials trained in full, on the right from the moment "
        f"when each had reached full length. What was stopped earlier is faded and not to be compared. {words}"
    )
    return Figure(name, title, caption, data, partial(draw_incumbent, family=study.family, chance=chance(study)))


def incumbent_data(study: Study) -> pd.DataFrame:
    """A row per trial that has a score.

    `seconds` is when the trial was last heard of, in the study's working time. `incumbent` is the best score of the
    full trials up to this number, `incumbent_then` of those that were complete at `seconds`.
    """
    trials = study.trials.sort_values("trial")[["trial", "name", "origin", "state", "full", "chosen", "score"]]
    heard = study.epochs.groupby("trial")["study_seconds"].max()
    data = trials.assign(seconds=trials["trial"].map(heard)).dropna(subset=["score"])
    known = data["score"].where(data["full"])
    by_time = known[data.sort_values(["seconds", "trial"]).index]
    data = data.assign(incumbent=known.cummax().ffill(), incumbent_then=by_time.cummax().ffill())
    return data.reset_index(drop=True)


def draw_incumbent(data: pd.DataFrame, family: str, chance: float) -> Drawing:
    """Two panels with the same scores: over trials, and over time."""
    drawing = style.new(3.7)
    left, right = drawing.subplots(1, 2, sharey=True)
    size, unit = time_unit(float(data["seconds"].max()))
    number, time = data["trial"].astype(float), data["seconds"].astype(float) / size
    default = data[(data["origin"] == "default") & data["full"]]
    for axes, x, line in ((left, number, "incumbent"), (right, time, "incumbent_then")):
        order = x.sort_values(kind="stable").index
        _points(axes, data, x, family)
        axes.step(x[order], data[line][order].astype(float), where="post", color=style.INK, zorder=4, label="incumbent")
        for level in default["score"].astype(float):
            axes.axhline(level, color=style.INK, linestyle="--", linewidth=0.9, zorder=2, label="default's score")
        axes.axhline(chance, color=style.INK, linestyle=":", linewidth=0.9, zorder=1, label="chance")
    left.set_xlabel("trial")
    whole_numbers(left, data["trial"])
    right.set_xlim(0, 1.04 * float(time.max()) or 1.0)
    right.set_xlabel(f"working time, {unit}")
    left.set_ylabel("balanced accuracy, tune")
    legend_below(drawing, left)
    return drawing


def _points(axes: Axes, data: pd.DataFrame, x: "pd.Series[float]", family: str) -> None:
    """A point per trial: its shape says where it comes from, its look what became of it."""
    colour = style.family_colour(family)
    for origin, marker in MARKERS.items():
        of = data["origin"] == origin
        own, edge = (True, style.INK) if origin != "sampled" else (False, "none")
        looks: dict[str, dict[str, Any]] = {
            "complete": {"s": 34 if own else 16, "color": colour, "edgecolors": edge},
            "pruned": {"s": 24 if own else 14, "color": colour, "alpha": 0.45, "edgecolors": edge},
            "failed": {"s": 24, "color": style.INK, "linewidths": 1.0},
            "running": {"s": 24, "facecolors": "none", "edgecolors": colour},
        }
        for state, look in looks.items():
            shown = of & (data["state"] == state)
            if shown.any():
                label = ORIGINS[origin] if state == "complete" else f"{ORIGINS[origin]}, {STATES[state]}"
                shape = "x" if state == "failed" else marker
                scores = data["score"][shown].astype(float)
                axes.scatter(x[shown], scores, marker=shape, zorder=5 if own else 3, label=label, **look)


def time_unit(seconds: float) -> tuple[float, str]:
    """The unit that suits a time of so many seconds: how many seconds it has, and its name."""
    return (1.0, "s") if seconds < 180 else (60.0, "min") if seconds < 3 * 3600 else (3600.0, "h")


def whole_numbers(axes: Axes, shown: "pd.Series[int]") -> None:
    """The x axis of whole numbers, with room at its ends also where there is but one."""
    low, high = int(shown.min()), int(shown.max())
    room = max(0.5, 0.03 * (high - low))
    axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend_below(drawing: Drawing, axes: Axes) -> None:
    """The legend of the axes below the drawing, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))


def survival(study: Study) -> Item:
    """How many trials reached each rung, and what became of them there."""
    name, title, rungs = style.file_name("survival", study.name), f"Survival by rung: {study.name}", study.spec["rungs"]
    if study.epochs["rung"].dropna().empty:
        return Missing(name, title, f"No trial of {study.name} has reached a rung yet, so none was compared.")
    if len(rungs) == 1:
        return Missing(name, title, f"{study.name} has one rung, its full length, so no trial could be stopped early.")
    data = survival_data(study)
    caption = (
        f"How many trials of {study.name} reached each rung, the epochs {', '.join(map(str, rungs))} at which ASHA "
        f"compares scores on tune, and went on. n = {states(study)}. "
        f"About one in {study.spec['reduction_factor']} of those that arrived goes on; early arrivals have it easier, "
        "and published recipes and the default are never stopped. A trial that ended by itself, as it got no better, "
        "counts with its score at the rungs that it did not see. Above each bar: how many went on, of how many that "
        "arrived, and how many had ended by themselves."
    )
    return Figure(name, title, caption, data, partial(draw_survival, family=study.family))


def survival_data(study: Study) -> pd.DataFrame:
    """A row per rung, rung 0 being the start.

    `reached` came to the rung, of which `passed` went on, or were complete with it, and `stopped` went no further.
    Of the others `ended_before` were complete earlier by themselves, `stopped_before` and `failed_before` never came,
    and `on_the_way` may still come.
    """
    trials, epochs = study.trials, study.epochs
    # The line that ends a stopped trial may not be written yet, or never was.
    state = trials["state"].mask(trials["trial"].isin(epochs.loc[epochs["decision"] == "stop", "trial"]), "pruned")
    rows = [{"rung": 0, "reached": len(trials), "passed": len(trials)}]
    for rung in study.spec["rungs"]:
        here = epochs[epochs["rung"].eq(rung).fillna(False).astype(bool)]
        others = state[~trials["trial"].isin(here["trial"])].value_counts()
        stopped = int((here["decision"] == "stop").sum())
        rows.append(
            {
                "rung": rung,
                "reached": len(here),
                "passed": len(here) - stopped,
                "stopped": stopped,
                "ended_before": int(others.get("complete", 0)),
                "stopped_before": int(others.get("pruned", 0)),
                "failed_before": int(others.get("failed", 0)),
                "on_the_way": int(others.get("running", 0)),
            }
        )
    return pd.DataFrame(rows).fillna(0).astype(int)


def draw_survival(data: pd.DataFrame, family: str) -> Drawing:
    """A bar per rung: passed below, stopped above; those that had ended by themselves on top."""
    drawing = style.new(2.9)
    axes = drawing.subplots()
    colour, x = style.family_colour(family), np.arange(len(data))
    base = np.zeros(len(data))
    looks: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("passed", "went on, or complete", {"color": colour}),
        ("stopped", "stopped here", {"facecolor": style.PAPER, "edgecolor": colour, "hatch": "////"}),
        ("ended_before", "had ended by themselves", {"facecolor": style.PAPER, "edgecolor": style.FAINT}),
    )
    for column, label, look in looks:
        shown = data[column].to_numpy() > 0  # a bar of no height would leave its edge
        if shown.any():
            axes.bar(x[shown], data[column][shown], 0.62, bottom=base[shown], label=label, zorder=3, **look)
            base += data[column].to_numpy()
    counts = data[["rung", "reached", "passed", "ended_before"]].to_numpy().tolist()
    for at, top, (rung, reached, passed, ended) in zip(x, base, counts, strict=True):
        words = f"{passed} of {reached}{f' + {ended}' if ended else ''}" if rung else f"{reached}"
        axes.annotate(words, (at, top), (0, 2), textcoords="offset points", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(x, ["begun", *(str(rung) for rung in data["rung"][1:])])
    axes.set_ylim(0, float(base.max()) * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rung, epoch")
    axes.set_ylabel("trials")
    style.legend_outside(axes)
    return drawing


def curves(study: Study) -> Item:
    """The learning curves of all trials on tune."""
    name, title = style.file_name("curves", study.name), f"Learning curves of all trials: {study.name}"
    data = curve_data(study)
    if data.empty:
        return Missing(name, title, f"No trial of {study.name} has finished an epoch yet.")
    caption = (
        f"Balanced accuracy on tune after each epoch, of all trials of {study.name} that finished one. n = "
        f"{data['trial'].nunique()} of {states(study)}. Those not trained in full are faded, and the end of each is "
        f"marked. The dotted line is chance, {chance_words(study)}."
    )
    return Figure(name, title, caption, data, partial(draw_curves, family=study.family, chance=chance(study)))


def curve_data(study: Study) -> pd.DataFrame:
    """A row per epoch that has a score, with its trial's `role`: chosen, published, default, or its state."""
    trials = study.trials
    role = trials["state"].where(trials["origin"] == "sampled", trials["origin"])
    roles = trials[["trial", "name", "state"]].assign(role=role.where(~trials["chosen"], "chosen"))
    data = study.epochs[["trial", "epoch", "tune_balanced_accuracy"]].dropna()
    return data.merge(roles, on="trial").sort_values(["trial", "epoch"]).reset_index(drop=True)


def draw_curves(data: pd.DataFrame, family: str, chance: float) -> Drawing:
    """Sampled trials as thin lines, the faded ones first; the chosen one thick, recipes dashed, each with its shape."""
    drawing = style.new(3.8)
    axes = drawing.subplots()
    colour = style.family_colour(family)
    by_role = {str(role): part for role, part in data.groupby("role")}
    for state in ("pruned", "failed", "running", "complete"):
        if state in by_role:
            _thin(axes, by_role[state], state, colour)
    looks: dict[str, dict[str, Any]] = {
        "published": {"linestyle": "--", "color": style.INK, "linewidth": 1.1},
        "default": {"linestyle": "-.", "color": style.INK, "linewidth": 1.1, "marker": "D"},
        "chosen": {"color": colour, "linewidth": 2.4, "marker": "o", "path_effects": [OUTLINE]},
    }
    shapes = itertools.cycle("sv^<>Pp*hX")
    for role, look in looks.items():
        for _, part in by_role.get(role, data[:0]).groupby("trial"):
            name = str(part["name"].iloc[0])
            marker = look.get("marker") or next(shapes)
            label = name if role == "default" else f"{role}: {style.shorten(name, 28)}"
            values = part[["epoch", "tune_balanced_accuracy"]].to_numpy(dtype=float)
            axes.plot(
                *values.T, **{**look, "marker": marker}, markevery=[-1], markersize=5, label=label,
                zorder=5 if role == "chosen" else 4,
            )  # fmt: skip
    axes.axhline(chance, color=style.INK, linestyle=":", linewidth=0.9, label="chance")
    axes.autoscale_view()
    whole_numbers(axes, data["epoch"])
    axes.set_xlabel("epoch")
    axes.set_ylabel("balanced accuracy, tune")
    legend_below(drawing, axes)
    return drawing


def _thin(axes: Axes, part: pd.DataFrame, state: str, colour: str) -> None:
    """The curves of many trials as one artist; unless complete, their ends are marked, or one epoch were not seen."""
    points = part[["epoch", "tune_balanced_accuracy"]].to_numpy(dtype=float)
    lines = np.split(points, np.flatnonzero(np.diff(part["trial"].to_numpy(dtype=int))) + 1)
    ends = np.array([line[-1] for line in lines])
    look: dict[str, Any] = {"rasterized": len(lines) > MANY, "zorder": 3}
    if state == "complete":
        curves = LineCollection(lines, colors=colour, linewidths=0.9, alpha=0.75, label="trained in full", **look)
        alone = np.array([line[0] for line in lines if len(line) == 1]).reshape(-1, 2)
        axes.scatter(alone[:, 0], alone[:, 1], s=9, color=colour, alpha=0.75, linewidths=0, **look)
    else:
        curves = LineCollection(lines, colors=colour, linewidths=0.8, alpha=0.35, **look)
        shades: dict[str, dict[str, Any]] = {
            "pruned": {"s": 9, "color": colour, "alpha": 0.5, "linewidths": 0},
            "failed": {"s": 22, "color": style.INK, "marker": "x", "linewidths": 0.9},
            "running": {"s": 22, "facecolors": "none", "edgecolors": colour},
        }
        axes.scatter(ends[:, 0], ends[:, 1], label=STATES[state], **shades[state], **look)
    axes.add_collection(curves)


def warnings_of(study: Study) -> list[str]:
    """What a reader should know before believing a study's numbers, a sentence or two each."""
    return [sentence for check in CHECKS for sentence in check(study)]


def _unfinished(study: Study) -> Iterator[str]:
    begun, asked, running = len(study.trials), study.spec["trials"], int((study.trials["state"] == "running").sum())
    if begun < asked or running:
        yield f"It is unfinished: {begun} of {asked} trials have begun, and {running} of them have not ended."


def _nothing_full(study: Study) -> Iterator[str]:
    if not study.trials["full"].any():
        yield f"No trial has reached full length, so none could be chosen. There are {states(study)}."
    elif not any(model.chosen for model in study.models) and not study.damaged:
        best = study.trials[study.trials["chosen"]].iloc[0]
        yield f"The best trial so far, {best['name']} with {best['score']:.3f}, has not been scored on test yet."


def _at_chance(study: Study) -> Iterator[str]:
    scores = study.trials["score"].dropna()
    level = f"chance, {chance_words(study)}"
    low = study.trials["score"].le(chance(study) + 1e-9).fillna(False).astype(bool)
    if len(scores) and low.sum() == len(scores):
        yield f"None of {counted(len(scores), 'trial', 'trials')} scored above {level}; the best: {scores.max():.3f}."
    elif low.any():
        full = int((low & study.trials["full"]).sum())
        yield f"{low.sum()} of {len(scores)} trials scored no more than {level}; {full or 'none'} of them in full."


def _chosen_at_chance(study: Study) -> Iterator[str]:
    for test in (model.metrics["splits"].get("test") for model in study.models if model.chosen):
        limits = test and test["balanced_accuracy_interval"]
        if limits and limits[0] <= chance(study, "test"):
            yield (
                f"On test the chosen model is not shown to be better than chance, {chance(study, 'test'):.3f}: it has "
                f"{test['balanced_accuracy']:.3f} (95 % interval {limits[0]:.3f} to {limits[1]:.3f})."
            )
        share = study.spec.get("majority_share", {}).get("test", -1.0)
        if test and test["accuracy"] <= share:
            yield (
                f"On test the chosen model's accuracy, {test['accuracy']:.3f}, is no more than always naming the "
                f"largest class would have, {share:.3f}."
            )


def _nothing_better(study: Study) -> Iterator[str]:
    """The choice is not one that the search found, or others did better without being complete."""
    full = study.trials[study.trials["full"]].sort_values(["score", "trial"], ascending=[False, True])
    if full.empty:
        return
    best, sampled = full.iloc[0], full[full["origin"] == "sampled"]
    if best["origin"] != "sampled":
        what = "the default" if best["origin"] == "default" else f"the published recipe {best['name']}"
        other = "no sampled trial was trained in full"
        if len(sampled):
            count = counted(len(sampled), "sampled trial", "sampled trials")
            other = (
                f"of {count} trained in full the best, {sampled.iloc[0]['name']}, had {sampled.iloc[0]['score']:.3f}"
            )
        yield f"The search found nothing better than {what}, which was chosen with {best['score']:.3f}: {other}."
    rest = study.trials[~study.trials["full"]].dropna(subset=["score"])
    ahead = rest[rest["score"] > best["score"]].sort_values(["score", "trial"], ascending=[False, True])
    if len(ahead):
        first = ahead.iloc[0]
        yield (
            f"{counted(len(ahead), 'trial', 'trials')} not trained in full scored above the chosen one's "
            f"{best['score']:.3f}: the best, {first['name']}, had {first['score']:.3f} and {ENDS[first['state']]} in "
            f"epoch {first['epochs']}."
        )


def _recipes(study: Study) -> Iterator[str]:
    tried = study.trials[study.trials["origin"] == "published"]
    for trial in tried[tried["state"] == "failed"].itertuples():
        yield f"The published recipe {trial.name} failed in epoch {trial.epochs}, so nothing was compared with it."
    names = set(tried["name"])
    for recipe in (recipe for recipe in study.space.baselines if recipe.changes and recipe.name in names):
        yield f"The published recipe {recipe.name} was changed for this study: {'; '.join(recipe.changes)}."


def _few_groups(study: Study) -> Iterator[str]:
    parts = {
        name: (row.get("groups", 0), list(groups_by_class(study, name).values()))
        for name, row in study.spec["splits"].items()
    }
    yield from few_groups(parts, study.spec["classes"])


def _still_rising(study: Study) -> Iterator[str]:
    full, length = study.trials[study.trials["full"]], study.spec["max_epochs"]
    last = full["best_epoch"].eq(length).fillna(False).astype(bool)
    if (last & full["chosen"]).any():
        count = f"{last.sum()} of {len(full)} trained in full"
        yield f"The chosen trial was best in its last epoch, {length}, as {count} were: more epochs may make it better."


ENDS = {"pruned": "was stopped", "failed": "failed", "running": "was last heard of"}
CHECKS: tuple[Callable[[Study], Iterator[str]], ...] = (
    _unfinished, _nothing_full, _nothing_better, _at_chance, _chosen_at_chance, _few_groups, _still_rising, _recipes,
)  # fmt: skip
