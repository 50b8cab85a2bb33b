"""What the loss does at everything else equal, and where two models disagree; all on the test split."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from analysis import predictions
from analysis.figures import Figure, Item, Missing, Table, style
from analysis.figures.models import (
    Scored,
    corpus_words,
    draw_marks,
    draw_matrix,
    draw_scale,
    fixed,
    inches,
    label_size,
    legend_below,
    mark_legend,
    rows_of_models,
    same_clips,
    scored,
)
from analysis.load import Studies
from trainables.corpora.wording import counted
from trainables.errors import UserError
from trainables.scoring import classes_of

LOSSES = ("ce", "hinge", "kl")
_OF_THE_LOSS = ("config.loss", "config.label_smoothing", "config.kl_smoothing")
_MOST_MODELS = 25  # in the matrix of agreement
_MOST_CLIPS = 20  # in the table of clips to which two models gave different answers
_NUMBERED = 16  # models up to which the matrix holds numbers


def items(studies: Studies) -> Iterator[Item]:
    """The loss at everything else equal, then the agreement of models and what tells the best from the others."""
    models = scored(studies)
    yield from _losses(studies, models)
    groups = same_clips(models)
    pairs = [group for group in groups if len(group) > 1]
    for group in pairs:
        yield from _agreement(group, len(groups) - 1)
    if not pairs:
        few = "only one model was" if len(models) == 1 else "no two models were" if models else "no model was"
        yield Missing(
            "disagreements",
            "Disagreements of two models",
            f"Two models can be compared on clips that both were tested on, but {few} scored so far"
            f"{' on the same clips' if len(models) > 1 else ''}. Search another family on the same corpus and task.",
        )


def disagreements(studies: Studies, one: str, other: str) -> Iterator[Item]:
    """Where any two models, named as in figures and leads, disagree: recall by class, and the clips that tell most.

    Raises UserError where there is no such model, or where they were scored on different clips.
    """
    models = {model.label: model for model in scored(studies)}
    for name in (one, other):
        if name not in models:
            known = ", ".join(models) or "those scored, of which there is none"
            raise UserError(f"A model must be one of {known}, but is {name!r}.")
    first, second = models[one], models[other]
    if not any(first in group and second in group for group in same_clips([first, second])):
        raise UserError(
            f"Two models can be compared on clips that both were tested on, but {one} and {other} were not."
        )
    yield from _pair(first, second)


# --- the loss at everything else equal ----------------------------------------------------------------------------


@dataclass(frozen=True)
class LossGroup:
    """Trials trained in full that differ in nothing but the loss, its smoothing and the seed: a row per trial."""

    trials: pd.DataFrame
    models: dict[int, Scored]  # by the row's index, where a trial's predictions are stored


def loss_groups(studies: Studies, models: list[Scored]) -> list[LossGroup]:
    """Groups of such trials with at least two losses, best first; also across studies of one family and corpus."""
    trials = studies.trials[studies.trials["full"]]
    if "config.loss" not in trials:
        return []
    trials = trials[trials["config.loss"].notna() & trials["score"].notna()]
    by_study = {study.name: _setting(study.spec) for study in studies.studies}
    columns = [name for name in trials if str(name).startswith("config.") and name not in _OF_THE_LOSS]
    values = trials[columns].astype(object).where(trials[columns].notna(), None)
    keys = [
        repr((by_study[str(study)], row))
        for study, row in zip(trials["study"], values.itertuples(index=False, name=None), strict=True)
    ]
    rank = {loss: place for place, loss in enumerate(LOSSES)}
    known = {(model.model.study, model.model.trial): model for model in models}
    found = []
    for _, rows in trials.groupby(np.array(keys, dtype=object), sort=False):
        if rows["config.loss"].nunique() > 1:
            order = rows["config.loss"].map(rank).fillna(len(rank))
            rows = rows.assign(order=order).sort_values(["order", "study", "trial"], kind="stable")
            places = zip(rows.index, rows["study"], rows["trial"], strict=True)
            stored = {index: known[study, trial] for index, study, trial in places if (study, trial) in known}
            found.append(LossGroup(rows, stored))
    return sorted(found, key=lambda group: -float(group.trials["score"].max()))


def _setting(spec: Mapping[str, Any]) -> str:
    """What two studies must have in common for their trials to be compared, as text."""
    data = {name: value for name, value in spec["data"].items() if name != "corpus"}
    return json.dumps([spec["space"]["name"], data, spec["max_epochs"]], sort_keys=True)


def _losses(studies: Studies, models: list[Scored]) -> Iterator[Item]:
    title = "The loss at everything else equal"
    groups = loss_groups(studies, models)
    if not groups:
        yield Missing(
            "losses",
            title,
            "No two trials that were trained in full differ in nothing but the loss, so its effect cannot be told from "
            "that of other values. The recipes mlp-genre-ce, -hinge and -kl do (search with --space mlp); or fix every "
            "parameter but the loss with --fix NAME=VALUE.",
        )
        return
    data = pd.DataFrame([row for number, group in enumerate(groups, start=1) for row in _loss_rows(number, group)])
    tested = int(data["balanced_accuracy"].notna().sum())
    words = (
        f"{len(data)} trials, trained in full, in {counted(len(groups), 'group', 'groups')} within which family, "
        f"corpus, budget and every value but the loss, its smoothing and the seed are equal. Best balanced accuracy on "
        f"tune; and, of the "
        f"{tested} whose predictions are stored, accuracy and balanced accuracy on test with 95 % intervals. "
        f"`difference` is in balanced accuracy to the group's first tested trial, paired on the same resampled clips. "
        f"Each trial is one training, so the luck of its seed is in every difference, and not in the intervals."
    )
    numbers = [str(name) for name in data if str(data[name].dtype) == "float64"]
    yield Table("losses", title, words, data.drop(columns=["family", "kind"]), dict.fromkeys(numbers, ".3f"))
    shown = data[data["difference"].notna()].reset_index(drop=True)
    if shown.empty:
        yield Missing(
            "losses-on-test",
            f"{title}: test",
            "Fewer than two of these trials have stored predictions on the same clips: those of chosen models and of "
            "published recipes are stored.",
        )
        return
    yield Figure(
        "losses-on-test",
        f"{title}: test",
        f"{len(shown)} models that differ within a group in nothing but the loss, its smoothing and the seed. Left: "
        f"balanced accuracy on test with its 95 % interval. Right: how much better than the group's first model, "
        f"paired on the same resampled clips of the test split ({_counts(shown['clips'])} clips); an "
        f"interval that contains 0 leaves open which is better. Each model was trained once, with its own seed.",
        shown,
        _draw_losses,
    )


def _loss_rows(number: int, group: LossGroup) -> Iterator[dict[str, object]]:
    """A row per trial; the first tested one is what the others are compared with."""
    reference = next((group.models[index] for index in group.trials.index if index in group.models), None)
    comparable = [
        index
        for index, model in group.models.items()
        if reference and predictions.clips_key(model.test) == predictions.clips_key(reference.test) and len(model.test)
    ]
    for index, trial in group.trials.iterrows():
        row: dict[str, object] = {
            "group": number,
            "family": trial["family"],
            "kind": _kind(trial),
            "study": trial["study"],
            "trial": trial["name"],
            "loss": trial["config.loss"],
            "smoothing": _smoothing(trial),
            "tune_balanced_accuracy": float(trial["score"]),
            "clips": pd.NA,
            **dict.fromkeys(("accuracy", "balanced_accuracy", "low", "high"), np.nan),
            **dict.fromkeys(("difference", "difference_low", "difference_high"), np.nan),
        }
        if index in group.models and len(group.models[index].test):
            rows = group.models[index].test
            found = predictions.overall(rows)
            limits = predictions.interval(rows, predictions.right(rows), balanced=True) or (np.nan, np.nan)
            row |= {"clips": len(rows), "accuracy": found.accuracy, "balanced_accuracy": found.balanced_accuracy}
            row |= {"low": limits[0], "high": limits[1]}
            if reference and len(comparable) > 1 and index in comparable:
                gap = predictions.disagreement(rows, reference.test)
                low, high = gap.interval or (np.nan, np.nan)
                row |= {"difference": gap.difference, "difference_low": low, "difference_high": high}
        yield row


def _counts(clips: "pd.Series[Any]") -> str:
    """How many clips the models were tested on, in words."""
    return " or ".join(str(count) for count in sorted({int(count) for count in clips}))


def _kind(trial: "pd.Series[Any]") -> str:
    if pd.notna(trial["baseline"]):
        return "published"
    return "default" if trial["origin"] == "default" else "chosen"


def _smoothing(trial: "pd.Series[Any]") -> float:
    values = [trial[name] for name in _OF_THE_LOSS[1:] if name in trial and pd.notna(trial[name])]
    return float(values[0]) if values else np.nan


def _draw_losses(data: pd.DataFrame) -> Drawing:
    several = data["group"].nunique() > 1
    names = [
        f"{group}: {loss} · {trial}" if several else f"{loss} · {trial}"
        for group, loss, trial in zip(data["group"], data["loss"], data["trial"], strict=True)
    ]
    drawing, (left, right) = rows_of_models(
        [style.shorten(name, 34) for name in names], ("balanced accuracy", "difference to the first of its group")
    )
    places = np.arange(len(data))
    colours = [style.family_colour(family) for family in data["family"]]
    left.hlines(places, data["low"], data["high"], colors=colours, linewidth=1.6)
    draw_marks(left, data, data["balanced_accuracy"], places)
    left.set_xlim(-0.02, 1.02)
    right.axvline(0, color=style.INK, linestyle=":", linewidth=1)
    right.hlines(places, data["difference_low"], data["difference_high"], colors=colours, linewidth=1.6)
    draw_marks(right, data, data["difference"], places)
    most = float(np.nanmax(data[["difference", "difference_low", "difference_high"]].abs().to_numpy())) * 1.1 or 0.1
    right.set_xlim(-most, most)
    legend_below(drawing, mark_legend(data["kind"]))
    return drawing


# --- disagreements ------------------------------------------------------------------------------------------------


def _agreement(models: list[Scored], others: int) -> Iterator[Item]:
    """`models` were tested on the same clips, the best on tune first; `others` counts further sets of models."""
    best = models[0]
    shown = models[:_MOST_MODELS]
    codes = np.stack([pd.Categorical(m.test["predicted"], classes_of(m.test)).codes for m in shown])
    names = [model.label for model in shown]
    left_out = f", the best of {len(models)} on tune" if len(models) > len(shown) else ""
    apart = " Models tested on other clips are compared among themselves." if others else ""
    where = f"{corpus_words(models)}; {best.clips}"
    yield Figure(
        best.name("agreement"),
        f"Agreement of models on {best.study.spec['data']['task']}",
        f"Per cent of the clips to which two models gave the same answer, right or wrong; {len(shown)} "
        f"models{left_out} ({where}).{apart}",
        pd.DataFrame(
            {
                "first": np.repeat(names, len(names)),
                "second": np.tile(names, len(names)),
                "agreement": [float((one == two).mean()) for one in codes for two in codes],
            }
        ),
        _draw_agreement,
    )
    yield Table(
        best.name("against-the-best"),
        f"The best model, {best.label}, against the others",
        f"How many clips both models recognised, one alone, or neither; how many got the same answer; and how much "
        f"better {best.words} does than the other in balanced accuracy, with a 95 % interval, paired on the same "
        f"resampled clips ({where}). {len(models) - 1} models.{apart}",
        pd.DataFrame([_against(best, model) for model in models[1:]]),
        dict.fromkeys(("difference", "low", "high"), ".3f"),
    )
    second = models[1]
    baseline = next((model for model in models[1:] if model.model.baseline), None)
    for other in dict.fromkeys((second.label, *([baseline.label] if baseline else []))):
        yield from _pair(best, next(model for model in models if model.label == other))


def _against(best: Scored, other: Scored) -> dict[str, object]:
    found = predictions.disagreement(best.test, other.test)
    low, high = found.interval or (np.nan, np.nan)
    return {
        "other": other.label,
        "both right": found.both,
        "only the best": found.only_first,
        "only the other": found.only_second,
        "both wrong": found.neither,
        "same answer": found.same_answer,
        "difference": found.difference,
        "low": low,
        "high": high,
    }


def _draw_agreement(data: pd.DataFrame) -> Drawing:
    names = list(dict.fromkeys(data["first"]))
    n = len(names)
    margin = inches(names, label_size(n)) + 0.15
    side = min(style.WIDTH - margin - 0.6, 0.5 * n + 0.5)
    height = side + margin + 0.1
    width = margin + side + 0.6
    drawing = fixed(height, width)
    axes = drawing.add_axes((margin / width, margin / height, side / width, side / height))
    values = data["agreement"].to_numpy(dtype=np.float64).reshape(n, n) * 100
    draw_matrix(axes, values, names, 100, numbers=n <= _NUMBERED)
    scale = ((margin + side + 0.08) / width, (margin + side / 4) / height, 0.1 / width, side / 2 / height)
    draw_scale(drawing.add_axes(scale), 100)
    return drawing


def _pair(best: Scored, other: Scored) -> Iterator[Item]:
    """Where one model recognises what another does not: by class, and the clips that tell most."""
    names = {"first": best.label, "second": other.label}
    gap = predictions.disagreement(best.test, other.test)
    limits = f" (95 % interval {gap.interval[0]:+.3f} to {gap.interval[1]:+.3f})" if gap.interval else ""
    by_class = predictions.recall_differences(best.test, other.test)
    counts = {"only_first": f"only {best.label}", "only_second": f"only {other.label}"}
    recalls = {name: f"recall of {label}" for name, label in names.items()}
    yield Table(
        style.file_name("recall", best.model.study, f"trial-{best.model.trial}", other.name("against")),
        f"Recall by class: {best.label} and {other.label}",
        f"{best.words} and {other.words}; {best.clips}. Both were right {gap.both} times, only the first "
        f"{gap.only_first}, only the second {gap.only_second}, neither {gap.neither}; the difference in balanced "
        f"accuracy is {gap.difference:+.3f}{limits}. Per class with clips: recalls, their difference, and how many "
        f"clips one alone recognised.",
        by_class.rename(columns=counts | recalls),
        {**dict.fromkeys(recalls.values(), ".3f"), "difference": "+.3f"},
    )
    clips = predictions.differing(best.test, other.test)
    title = f"Clips that tell {best.label} from {other.label}"
    name = style.file_name("clips", best.model.study, f"trial-{best.model.trial}", other.name("against"))
    if clips.empty:
        yield Missing(name, title, f"Both gave the same answer to every clip ({best.clips}).")
        return
    chances = {"p_first": f"p by {best.label}", "p_second": f"p by {other.label}"}
    yield Table(
        name,
        title,
        f"The {min(len(clips), _MOST_CLIPS)} of {len(clips)} clips with different answers on which the probabilities p "
        f"of the right class differ most ({best.clips}).",
        clips.head(_MOST_CLIPS).rename(columns=names | chances),
        {**dict.fromkeys(chances.values(), ".3f"), "gap": "+.3f"},
    )
