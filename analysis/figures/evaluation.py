"""How good each scored model is: learning curves, confusion, report, calibration, layers, values, times.

Everything is computed from the stored predictions and the journal; "tune" is the part of the training data held out
to choose by, "test" is the part that nothing was chosen by.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

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
    logarithmic,
    mark_legend,
    rows_of_models,
    same_clips,
    scored,
)
from analysis.load import Studies

_NUMBERED = 12  # classes up to which cells hold numbers
_BESIDE = 20  # classes up to which two matrices fit beside each other


def items(studies: Studies) -> Iterator[Item]:
    """All models together, then each by itself, the best on tune first."""
    models = scored(studies)
    for study in studies.studies:
        if not study.models:
            yield Missing(
                style.file_name("evaluation", study.name),
                f"Evaluation of {study.name}",
                "No model of this study was scored yet: predictions are stored when a study ends.",
            )
    for group in same_clips(models):
        yield _scores(group)
    if models:
        yield _times(models)
    for model in models:
        yield from _model_items(model)


def _model_items(model: Scored) -> Iterator[Item]:
    yield _curves(model)
    if len(model.test):
        yield _confusion(model)
        yield _report(model)
        yield _reliability(model)
    else:
        yield Missing(
            model.name("confusion"),
            f"Predictions of {model.label}",
            f"No clip of the test split has a known class, so {model.words} could not be tested.",
        )
    yield _layers(model)
    yield _values(model)


# --- all models ---------------------------------------------------------------------------------------------------


def _scores(models: list[Scored]) -> Item:
    first = models[0].test
    share = float(first["true"].value_counts(normalize=True).max())
    data = pd.DataFrame([_score_row(model) for model in models])
    data = data.assign(accuracy_by_chance=share, balanced_accuracy_by_chance=1 / first["true"].nunique())
    return Figure(
        style.file_name("accuracy-by-model", models[0].model.study, f"trial-{models[0].model.trial}"),
        f"Accuracy of all models on {models[0].study.spec['data']['task']}",
        f"Accuracy and balanced accuracy of {len(models)} models ({corpus_words(models)}), sorted by their balanced "
        f"accuracy on tune, by which they were chosen. Large marks: test split, {len(first)} clips of "
        f"{first['group'].nunique()} groups, with 95 % intervals from resampling groups, then clips within them "
        f"(none where a class has a single clip). Small marks: tune and valid. Dotted: always naming the most "
        f"frequent class.",
        data,
        _draw_scores,
    )


def _score_row(model: Scored) -> dict[str, object]:
    row: dict[str, object] = {
        "model": model.label,
        "study": model.model.study,
        "family": model.model.family,
        "kind": model.kind,
    }
    for split in ("tune", "valid", "test"):
        rows = model.test if split == "test" else predictions.part(model.model.predictions, split)
        found = predictions.overall(rows) if len(rows) else None
        row[f"{split}_accuracy"] = found.accuracy if found else np.nan
        row[f"{split}_balanced_accuracy"] = found.balanced_accuracy if found else np.nan
    for metric in ("accuracy", "balanced_accuracy"):
        balanced = metric == "balanced_accuracy"
        limits = predictions.interval(model.test, predictions.right(model.test), balanced=balanced)
        row[f"test_{metric}_low"], row[f"test_{metric}_high"] = limits or (np.nan, np.nan)
    return row


def _draw_scores(data: pd.DataFrame) -> Drawing:
    drawing, panels = rows_of_models(list(data["model"]), ("accuracy", "balanced accuracy"))
    places = np.arange(len(data))
    for axes, metric in zip(panels, ("accuracy", "balanced_accuracy"), strict=True):
        axes.axvline(data[f"{metric}_by_chance"].iloc[0], color=style.INK, linestyle=":", linewidth=1)
        for split, marker in (("tune", "|"), ("valid", "x")):
            axes.scatter(
                data[f"{split}_{metric}"], places + 0.3, s=14, marker=marker, color=style.FAINT, linewidths=1.2
            )
        low, high = data[f"test_{metric}_low"], data[f"test_{metric}_high"]
        colours = [style.family_colour(family) for family in data["family"]]
        axes.hlines(places, low, high, colors=colours, linewidth=1.6)
        draw_marks(axes, data, data[f"test_{metric}"], places)
        axes.set_xlim(-0.02, 1.02)
    extra = [
        Line2D([], [], marker=marker, color=style.FAINT, linestyle="", label=split)
        for split, marker in (("tune", "|"), ("valid", "x"))
    ]
    legend_below(drawing, [*mark_legend(data["kind"]), *extra])
    return drawing


def _times(models: list[Scored]) -> Item:
    data = pd.DataFrame(
        {
            "model": [model.label for model in models],
            "family": [model.model.family for model in models],
            "kind": [model.kind for model in models],
            "best_epoch": [model.model.metrics["best_epoch"] for model in models],
            "seconds_to_best_epoch": [_seconds_to_best(model) for model in models],
            "prediction_ms_per_clip": [float(model.model.metrics["prediction_ms"]) for model in models],
        }
    )
    return Figure(
        style.file_name("times-by-model", models[0].model.study, f"trial-{models[0].model.trial}"),
        "Time to converge and to predict",
        f"Left: the seconds of training until the best epoch, after which no score on tune was better. Right: the "
        f"median milliseconds to answer a recording by itself, features included. {len(models)} models, the best on "
        f"tune first; both axes are logarithmic, and a mark is missing where a time was too short to measure. Times "
        f"depend on the machine, and on what else ran there.",
        data,
        _draw_times,
    )


def _seconds_to_best(model: Scored) -> float:
    epochs = _epochs(model)
    seconds = epochs.loc[epochs["epoch"] <= model.model.metrics["best_epoch"], "epoch_seconds"]
    return float(seconds.sum()) if len(seconds) else float("nan")


def _draw_times(data: pd.DataFrame) -> Drawing:
    drawing, panels = rows_of_models(list(data["model"]), ("seconds until the best epoch", "milliseconds per clip"))
    places = np.arange(len(data))
    for axes, column in zip(panels, ("seconds_to_best_epoch", "prediction_ms_per_clip"), strict=True):
        known = data[column].where(data[column] > 0)
        draw_marks(axes, data, known, places)
        logarithmic(axes, known)
    legend_below(drawing, mark_legend(data["kind"]))
    return drawing


# --- one model ----------------------------------------------------------------------------------------------------


def _epochs(model: Scored) -> pd.DataFrame:
    """A model's epochs."""
    epochs = model.study.epochs
    return epochs[epochs["trial"] == model.model.trial].sort_values("epoch")


def _curves(model: Scored) -> Item:
    columns = [f"{split}_{metric}" for metric in ("accuracy", "cross_entropy") for split in ("train", "tune")]
    data = _epochs(model)[["epoch", *columns]].astype("float64").reset_index(drop=True)
    data = data.replace([np.inf, -np.inf], np.nan).dropna(how="all", subset=columns)
    name, title = model.name("learning-curves"), f"Learning curves of {model.label}"
    if data.empty:
        return Missing(name, title, f"The journal holds no epoch of {model.words}, so its curves cannot be drawn.")
    best_epoch = model.model.metrics["best_epoch"]
    return Figure(
        name,
        title,
        f"Accuracy and cross-entropy of {model.words} after each of {len(data)} epochs, in training (dashed; with "
        f"dropout and what else is done to examples in training) and on the tune split (solid), which validates it. "
        f"Dotted: epoch {best_epoch}, the best by balanced accuracy on tune, whose weights were kept.",
        data.assign(best=data["epoch"].eq(best_epoch)),
        partial(_draw_curves, family=model.model.family),
    )


def _draw_curves(data: pd.DataFrame, family: str) -> Drawing:
    drawing = fixed(2.6)
    grid = {"left": 0.08, "right": 0.985, "bottom": 0.17, "top": 0.9, "wspace": 0.22}
    colour = style.family_colour(family)
    few = len(data) <= 30
    for axes, metric in zip(drawing.subplots(1, 2, gridspec_kw=grid), ("accuracy", "cross_entropy"), strict=True):
        for split, dashes, shade, marker in (("train", "--", style.INK, "s"), ("tune", "-", colour, "o")):
            axes.plot(
                data["epoch"], data[f"{split}_{metric}"], linestyle=dashes, color=shade, label=split,
                marker=marker if few else "", markersize=3,
            )  # fmt: skip
        for epoch in data["epoch"][data["best"]]:
            axes.axvline(epoch, color=style.INK, linestyle=":", linewidth=1, label=f"best epoch: {epoch:.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.set_xlim(min(1, data["epoch"].min()) - 0.5, data["epoch"].max() + 0.5)
        axes.set_title(metric.replace("_", "-"))
        axes.set_xlabel("epoch")
    drawing.axes[0].set_ylim(0, 1.02)
    highest = float(np.nanmax(data[["train_cross_entropy", "tune_cross_entropy"]].to_numpy("float64", na_value=0.0)))
    drawing.axes[1].set_ylim(0, 1.06 * highest or 1.0)
    drawing.axes[1].legend(loc="best")
    return drawing


def _confusion(model: Scored) -> Item:
    counts = predictions.confusion(model.test)
    support = counts.sum(axis=1)
    shares = counts.div(support.where(support > 0), axis=0)
    n = len(counts)
    data = pd.DataFrame(
        {
            "true": np.repeat(counts.index.to_numpy(), n),
            "predicted": np.tile(counts.columns.to_numpy(), n),
            "clips": counts.to_numpy().ravel(),
            "share": shares.to_numpy().ravel(),
        }
    )
    numbers = " Empty cells are zero." if n <= _NUMBERED else ""
    absent = " Grey rows: classes without clips." if (support == 0).any() else ""
    return Figure(
        model.name("confusion"),
        f"Confusion matrix of {model.label}",
        f"What {model.words} took each class for; {model.clips}, {n} classes. First in clips, then in per cent of the "
        f"true class's clips, so that the diagonal is the recall.{numbers}{absent}",
        data,
        _draw_confusion,
    )


def _draw_confusion(data: pd.DataFrame) -> Drawing:
    classes = list(dict.fromkeys(data["true"]))
    n = len(classes)
    names = [style.shorten(name, 16) for name in classes]
    shares = data["share"].to_numpy(dtype=np.float64).reshape(n, n) * 100
    counts = np.where(np.isnan(shares), np.nan, data["clips"].to_numpy(dtype=np.float64).reshape(n, n))
    beside, numbered = n <= _BESIDE, n <= _NUMBERED
    widest = inches(names, label_size(n))
    margin = widest + 0.35
    scale, gap, title = 0.0 if numbered else 0.45, 0.2, 0.25
    side = (style.WIDTH - margin - 0.1 - gap) / 2 - scale if beside else style.WIDTH - margin - 0.1 - scale
    height = side + margin + title if beside else 2 * (side + margin + title)
    drawing = fixed(height)
    panels = (
        (counts, "clips", max(float(np.nanmax(counts)), 1.0)),
        (shares, "per cent of the true class's clips", 100.0),
    )
    for number, (values, words, most) in enumerate(panels):
        left = margin + number * (side + scale + gap) if beside else margin
        bottom = margin if beside else margin + (1 - number) * (height / 2)
        axes = drawing.add_axes((left / style.WIDTH, bottom / height, side / style.WIDTH, side / height))
        draw_matrix(axes, values, names, most, numbers=numbered, beside=not (beside and number))
        axes.set_title(words)
        axes.set_xlabel("predicted class", labelpad=72 * widest + 6)
        if not beside or not number:
            axes.set_ylabel("true class", labelpad=72 * widest + 6)
        if not numbered:
            place = ((left + side + 0.06) / style.WIDTH, (bottom + side / 4) / height, 0.1 / style.WIDTH)
            draw_scale(drawing.add_axes((*place, side / 2 / height)), most)
    return drawing


def _report(model: Scored) -> Item:
    data = predictions.classification_report(model.test)
    return Table(
        model.name("classification-report"),
        f"Classification report of {model.label}",
        f"{model.words}; {model.clips}. Precision of a class never predicted is 0; averages are over the classes that "
        f"have clips, weighted by clips in the last row. Accuracy and balanced accuracy are means of recalls.",
        data.drop(columns="average").rename(columns={"f1": "F1"}),
        {"precision": ".3f", "recall": ".3f", "F1": ".3f"},
        frozenset(int(row) for row in data.index[data["average"]]),
    )


def _reliability(model: Scored) -> Item:
    data = predictions.reliability(model.test)
    name, title = model.name("reliability"), f"Reliability of {model.label}"
    clips = int(data["clips"].sum())
    if not clips:
        return Missing(name, title, f"None of the probabilities of {model.words} is a number.")
    return Figure(
        name,
        title,
        f"Share of right answers against mean confidence, the largest probability, in {len(data)} equal bins of "
        f"{model.words}; test split, {clips} clips. On the diagonal a model is as sure as it is right; below it, it is "
        f"too sure. Expected calibration error: {predictions.calibration_error(data):.3f}. Below: clips per bin.",
        data,
        partial(_draw_reliability, family=model.model.family),
    )


def _draw_reliability(data: pd.DataFrame, family: str) -> Drawing:
    drawing = fixed(4.2, 4.2)
    grid = {"left": 0.15, "right": 0.97, "bottom": 0.11, "top": 0.97, "hspace": 0.08, "height_ratios": (3, 1)}
    upper, lower = drawing.subplots(2, 1, sharex=True, gridspec_kw=grid)
    colour = style.family_colour(family)
    centres, width = (data["low"] + data["high"]) / 2, (data["high"] - data["low"]) * 0.94
    known = data[data["clips"] > 0]
    upper.plot([0, 1], [0, 1], color=style.INK, linestyle=":", linewidth=1)
    upper.vlines(known["confidence"], known["confidence"], known["accuracy"], color=style.FAINT, linewidth=3)
    upper.plot(known["confidence"], known["accuracy"], marker="o", markersize=5, color=colour, clip_on=False)
    upper.set(ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1.02))
    lower.bar(centres, data["clips"], width=width, color=colour)
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    lower.set(xlabel="confidence", ylabel="clips")
    return drawing


def _layers(model: Scored) -> Item:
    name, title = model.name("layers"), f"Layers of {model.label}"
    layers = model.model.config.get("layers")
    if not layers:
        return Missing(
            name,
            title,
            f"Study {model.model.study} was finished before layers were stored with a model, so those of {model.label} "
            f"are not known. Resumed with search/run.py --resume it stores them.",
        )
    data = pd.DataFrame(layers)[["name", "kind", "output_shape", "parameters", "trainable"]]
    data["output_shape"] = [" × ".join(map(str, shape or ("not used",))) for shape in data["output_shape"]]
    return Table(
        name,
        title,
        f"The {len(data)} layers of {model.words}, in order, with the shape that one clip has after each: "
        f"{data['parameters'].sum():,} parameters, {data['trainable'].sum():,} of them trained.",
        data,
        {"parameters": ",d", "trainable": ",d"},
    )


def _values(model: Scored) -> Item:
    space, metrics = model.study.space, model.model.metrics
    baseline = next((b for b in space.baselines if b.name == model.model.baseline), None)
    recipe = baseline.settings if baseline else {}
    source = f" ({baseline.source})" if baseline else ""
    ranges = {name: (domain, condition) for name, domain, condition in space.describe()}
    rows = [(name, value, metrics["origin"], *ranges.get(name, ("", ""))) for name, value in metrics["params"].items()]
    rows += [
        (name, value, "published" if name in recipe else "setting", "not searched", "")
        for name, value in {**space.settings, **recipe}.items()
    ]
    return Table(
        model.name("hyperparameters"),
        f"Hyperparameters of {model.label}",
        f"Every value that decided {model.words}: {len(metrics['params'])} parameters with the range that was searched "
        f"and the condition under which they exist, then the settings. Its origin is who chose a value: the search "
        f"(sampled), the family's default, or the published recipe{source}.",
        pd.DataFrame(rows, columns=["name", "value", "origin", "range", "only where"]),
    )
