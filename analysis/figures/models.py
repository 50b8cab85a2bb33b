"""What figures of scored models share: their names, their marks, rows of models, matrices.

Margins are measured from the labels: Matplotlib's own layout takes seconds for a matrix of sixty classes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, NullFormatter

from analysis import predictions
from analysis.figures import style
from analysis.load import Model, Studies, Study

_MOST_LABEL = 34  # characters
_TICKS = 60  # labels that fit along a matrix

# How kinds of model are marked in every figure: marker, filled or hollow, words.
MARKS = {
    "chosen": ("o", True, "chosen by the search"),
    "default": ("D", True, "chosen: the default configuration"),
    "published": ("s", False, "published recipe"),
}


@dataclass(frozen=True)
class Scored:
    """A scored model, what it is called in the report (no two alike), and its predictions on test."""

    model: Model
    study: Study
    label: str
    test: pd.DataFrame

    @property
    def kind(self) -> str:
        """A key of `MARKS`."""
        if self.model.baseline:
            return "published"
        return "default" if self.model.metrics["origin"] == "default" else "chosen"

    @property
    def words(self) -> str:
        """Which model it is, for captions."""
        changes = f"; not as published: {self.model.changes}" if self.model.changes else ""
        return f"{self.label} (trial {self.model.trial} of study {self.model.study}{changes})"

    @property
    def clips(self) -> str:
        """On what it was tested, for captions."""
        return f"test split, {len(self.test)} clips of {self.test['group'].nunique()} groups"

    def name(self, kind: str) -> str:
        """The file name of its figure or table of that kind."""
        return style.file_name(kind, self.model.study, f"trial-{self.model.trial}")


def scored(studies: Studies) -> list[Scored]:
    """All scored models, the best on tune first."""
    by_name = {study.name: study for study in studies.studies}
    models = studies.models
    return [
        Scored(model, by_name[model.study], label, predictions.part(model.predictions, "test"))
        for model, label in zip(models, labels(models), strict=True)
    ]


def same_clips(models: Iterable[Scored]) -> list[list[Scored]]:
    """The models by the clips they were tested on, since only such models can be compared."""
    found: dict[str, list[Scored]] = {}
    for model in models:
        if len(model.test):
            found.setdefault(predictions.clips_key(model.test), []).append(model)
    return list(found.values())


def corpus_words(models: Sequence[Scored]) -> str:
    """The corpus and task of models that were tested on the same clips."""
    data = models[0].study.spec["data"]
    return f"{style.shorten(str(data['corpus']), 60)}, task {data['task']}"


def labels(models: Sequence[Model]) -> list[str]:
    """A short name for each model; those that have the same one get their study's, or at last a number."""
    names = [model.name for model in models]
    found: list[str] = []
    for model in models:
        twice = names.count(model.name) > 1
        label = f"{style.shorten(model.name, 20)} · {style.shorten(model.study, 11)}" if twice else model.name
        label = style.shorten(label, _MOST_LABEL)
        found.append(f"{style.shorten(label, _MOST_LABEL - 4)} #{len(found) + 1}" if label in found else label)
    return found


# --- marks and rows -----------------------------------------------------------------------------------------------


def draw_marks(axes: Axes, data: pd.DataFrame, x: "pd.Series[float]", y: npt.NDArray[np.int64]) -> None:
    """A mark per row of `family` and `kind`, in the family's colour, shaped as its kind is."""
    for kind, (marker, filled, _) in MARKS.items():
        rows = data["kind"].eq(kind).to_numpy()
        colours = [style.family_colour(family) for family in data["family"][rows]]
        faces = colours if filled else [style.PAPER] * len(colours)
        axes.scatter(x[rows], y[rows], s=30, marker=marker, c=faces, edgecolors=colours, linewidths=1.4, zorder=3)


def mark_legend(kinds: "pd.Series[str]") -> list[Line2D]:
    """What the marks mean, of those that are there."""
    return [
        Line2D(
            [], [], marker=marker, linestyle="", color=style.INK, label=words,
            markerfacecolor=style.INK if filled else style.PAPER,
        )
        for kind, (marker, filled, words) in MARKS.items()
        if kinds.eq(kind).any()
    ]  # fmt: skip


def fixed(height: float, width: float = style.WIDTH) -> Drawing:
    """An empty drawing without a layout of Matplotlib's making, which takes more than half of the time."""
    return Drawing(figsize=(width, height), layout=None)


def rows_of_models(names: Sequence[str], x_labels: Sequence[str]) -> tuple[Drawing, list[Axes]]:
    """Panels side by side, one row per model, the first on top; below them is room for a legend of one line."""
    bottom, row = 0.75, 0.21
    height = bottom + 0.15 + row * (max(len(names), 2) + 0.4)
    drawing = fixed(height)
    left = (inches(names, 8) + 0.2) / style.WIDTH
    grid = {"left": left, "right": 0.98, "bottom": bottom / height, "top": 1 - 0.15 / height, "wspace": 0.1}
    panels = list(np.atleast_1d(drawing.subplots(1, len(x_labels), sharey=True, gridspec_kw=grid)))
    for axes, label in zip(panels, x_labels, strict=True):
        axes.set_xlabel(label)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].set_ylim(max(len(names), 2) - 0.3, -0.7)
    return drawing, panels


def legend_below(drawing: Drawing, handles: Sequence[Line2D]) -> None:
    """One line of legend at the lower edge."""
    drawing.legend(
        handles=handles, loc="lower center", ncols=len(handles), borderaxespad=0.2, handletextpad=0.1, columnspacing=1.2
    )


def logarithmic(axes: Axes, values: "pd.Series[float]") -> None:
    """A logarithmic x axis round some positive values, its ticks in plain numbers."""
    known = values[values > 0]
    if known.empty:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center")
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    middle = math.sqrt(known.min() * known.max())
    axes.set_xlim(min(known.min() / 1.5, middle / 12), max(known.max() * 1.5, middle * 12))


# --- matrices -----------------------------------------------------------------------------------------------------


def inches(texts: Iterable[str], size: float) -> float:
    """How wide the widest of some texts is at a size in points."""
    font = FontProperties(family="DejaVu Sans", size=size)
    with style.any_script():
        return max((text_to_path.get_text_width_height_descent(t, font, False)[0] / 72 for t in texts), default=0.0)


def label_size(n: int) -> float:
    """The size of labels, in points, where there are so many along a matrix."""
    return 8 if n <= 12 else 6.5 if n <= 30 else 5.5


def draw_matrix(
    axes: Axes,
    values: npt.NDArray[np.float64],
    names: Sequence[str],
    most: float,
    *,
    numbers: bool,
    beside: bool = True,
) -> None:
    """A square matrix in shades of blue, cells of no value in grey, with names below and, where `beside`, on the left.

    `numbers` writes all but zeros in their cells.
    """
    n = len(names)
    colours = style.BLUES.with_extremes(bad="#d9d9d9")
    axes.imshow(values, cmap=colours, vmin=0, vmax=most, interpolation="nearest", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set(visible=True, color=style.FAINT, linewidth=0.6)
    _draw_labels(axes, names, beside)
    if not numbers:
        return
    for row, column in np.argwhere(np.nan_to_num(values) > 0):
        value = values[row, column]
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=min(label_size(n), 7),
            color=style.ON_DARK if value > 0.55 * most else style.ON_LIGHT,
        )  # fmt: skip


def _draw_labels(axes: Axes, names: Sequence[str], on_left: bool) -> None:
    """Names along both sides of a matrix. Texts, since ticks take five times as long."""
    n, size = len(names), label_size(len(names))
    box = axes.get_window_extent()
    width, height = box.width / axes.figure.dpi, box.height / axes.figure.dpi
    below, beside = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    for place in range(0, n, -(-n // _TICKS)):
        name = names[place]
        axes.text(place, -0.04 / height, name, transform=below, ha="center", va="top", rotation=90, fontsize=size)
        if on_left:
            axes.text(-0.04 / width, place, name, transform=beside, ha="right", va="center", fontsize=size)


def draw_scale(axes: Axes, most: float) -> None:
    """What the shades of a matrix mean, as a column of them."""
    shades = np.linspace(0, most, 64)[:, None]
    axes.imshow(shades, cmap=style.BLUES, origin="lower", aspect="auto", extent=(0, 1, 0, most))
    axes.set_xticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.yaxis.tick_right()
    axes.tick_params(axis="y", labelsize=7, length=2)
