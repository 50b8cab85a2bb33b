"""Two parameters at a time: pairs of the most important ones, and loss beside width."""

from collections.abc import Sequence
from functools import partial
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Drawing
from matplotlib.tri import Triangulation, UniformTriRefiner

from analysis.figures import Figure, Missing, panels, scales, style
from analysis.figures.importance import in_order
from analysis.figures.panels import Panel
from analysis.figures.scales import Scale
from analysis.load import Study

_FEWEST = 10  # trials that an interpolation needs
_NEAR = 0.12  # how far a score reaches, in parts of an axis
_WIDTHS = ("width_1", "hidden_1", "channels_1", "head_1")  # the first that a family has is its width
_LOSS = "param.loss"

Pair = tuple[Scale, Scale]


# Pairs


def pairs(study: Study, order: Sequence[str]) -> Figure | Missing:
    """Scores over pairs of parameters: of the three first numerical ones, and of the first with three of few values."""
    name, title = style.file_name("pairs", study.name), f"Pairs of parameters: {study.name}"
    rows = scales.scored(study)
    rows = rows[rows["full"]].reset_index(drop=True)
    if len(rows) < 2:
        there = "there is one" if len(rows) else "there is none"
        return Missing(name, title, f"Pairs of parameters need at least two trials at full length, but {there}.")
    axes = scales.varied(study, rows)
    wide = [axis for axis in axes if rows[axis.column].notna().mean() >= 0.5]
    shown = _pairs(wide, order) or _pairs(axes, order)
    if not shown:
        return Missing(name, title, "Fewer than two parameters varied among the trials at full length.")
    used = list(dict.fromkeys(axis.column for pair in shown for axis in pair))
    kept = [str(column) for column in rows if not str(column).startswith("param.")]
    caption = (
        f"Score (balanced accuracy on tune) over pairs of parameters of {study.name}, of those that apply to at "
        f"least half of the trials, {in_order(study)}. A dot per trial at full length to which both apply, the winner "
        f"starred. Areas: the mean of the scores nearby, within the hull of the dots, where there are at least "
        f"{_FEWEST}; nothing is interpolated between categories or steps, where dots are spread instead. "
        f"n = {len(rows)} trials."
    )
    return Figure(name, title, caption, rows[kept + used], partial(_draw_pairs, shown=shown))


def _pairs(axes: list[Scale], order: Sequence[str]) -> tuple[Pair, ...]:
    rank = {name: place for place, name in enumerate(order)}
    first = sorted(axes, key=lambda axis: rank.get(axis.name, len(rank)))
    ranges, steps = [axis for axis in first if not axis.steps], [axis for axis in first if axis.steps]
    if not ranges:
        return tuple(combinations(steps[:3], 2))
    return (*combinations(ranges[:3], 2), *((step, ranges[0]) for step in steps[:3]))


_WIDE, _LEFT, _TALL = 2.2, 0.62, 1.62  # inches: from panel to panel, and of one


def _draw_pairs(data: pd.DataFrame, shown: tuple[Pair, ...]) -> Drawing:
    score = scales.scores(data)
    limits = Normalize(*scales.shades(score))
    lines = -(-len(shown) // 3)
    foot = 0.26 + max(panels.foot(across, 1.5) for across, _ in shown)
    height = 0.1 + lines * (_TALL + foot)
    drawing, plot = panels.canvas(height)
    places = [
        Panel(_LEFT + column * _WIDE, height - 0.1 - (line + 1) * _TALL - line * foot, 1.5, _TALL, *pair)
        for (line, column), pair in zip(np.ndindex(lines, 3), shown, strict=False)
    ]
    for panel in places:
        _pair(plot, panel, data, limits)
    panels.frame(plot, places, titles=False, inner=True)
    bar = drawing.add_axes((6.6 / style.WIDTH, 1 - 1.72 / height, 0.12 / style.WIDTH, _TALL / height))
    scales.colour_bar(drawing, ScalarMappable(limits, scales.SCORES), score, bar)
    return drawing


def _pair(plot: Axes, panel: Panel, data: pd.DataFrame, limits: Normalize) -> None:
    axes = (panel.across, panel.up)
    across, up = (axis.positions(data[axis.column]) for axis in axes)
    both = ~(np.isnan(across) | np.isnan(up))
    score, winner = scales.scores(data)[both], data["chosen"].to_numpy(bool)[both]
    if not panel.across.steps and not panel.up.steps and (found := surface(across[both], up[both], score, axes)):
        corners, triangles, heights = found
        mesh = Triangulation(*panel.place(corners[:, 0], corners[:, 1]), triangles)
        levels = np.linspace(limits.vmin or 0.0, limits.vmax or 1.0, 10)
        plot.tricontourf(
            mesh, np.maximum(heights, levels[0]), levels=levels, cmap=scales.SCORES, norm=limits, alpha=0.45, zorder=0
        )
    across = across[both] + scales.jitter(data["trial"], 0.6 if panel.across.steps else 0.0)[both]
    up = up[both] + scales.jitter(data["trial"], 0.6 if panel.up.steps else 0.0, other=True)[both]
    x, y = panel.place(across, up)
    for rows, marker, size in ((~winner, "o", 16), (winner, "*", 110)):
        plot.scatter(
            x[rows], y[rows], c=score[rows], s=size, marker=marker, cmap=scales.SCORES, norm=limits,
            edgecolors=style.INK, linewidths=0.5, zorder=2, rasterized=int(rows.sum()) > 100,
        )  # fmt: skip


def surface(
    across: scales.Numbers, up: scales.Numbers, score: scales.Numbers, pair: Pair
) -> tuple[scales.Numbers, npt.NDArray[np.int32], scales.Numbers] | None:
    """A mesh over the dots' convex hull, corners (n, 2) and triangles, and the mean of the scores near each corner.

    None where fewer than ten trials stand at different places, or all nearly on a line. A mean keeps within the
    scores that were measured, where a spline through them would swing beyond.
    """
    places = np.column_stack([(across - pair[0].low) / pair[0].reach, (up - pair[1].low) / pair[1].reach])
    different = np.unique(places.round(6), axis=0)
    if len(different) < _FEWEST or np.linalg.svd(different - different.mean(0), compute_uv=False)[-1] < 0.05:
        return None
    coarse = Triangulation(different[:, 0], different[:, 1])
    mesh = UniformTriRefiner(coarse).refine_triangulation(subdiv=3 if len(different) < 50 else 2)
    corners = np.column_stack([mesh.x, mesh.y])
    distances = ((corners[:, None, :] - places[None, :, :]) ** 2).sum(2)
    distances -= distances.min(1, keepdims=True)  # far from all, the nearest decides; weights never all vanish
    weights = np.exp(-distances / (2 * _NEAR**2))
    heights = (weights @ score) / weights.sum(1)
    ends = [axis.low + corners[:, place] * axis.reach for place, axis in enumerate(pair)]
    return np.column_stack(ends), mesh.triangles, heights


# Loss and width


def loss_and_width(study: Study) -> Figure | Missing:
    """Scores by loss and width: what looks like a gain of the loss may come from the width."""
    name, title = style.file_name("loss-width", study.name), f"Loss and width: {study.name}"
    width = next((name for name in _WIDTHS if any(param.name == name for param in study.space.params)), None)
    if width is None:
        return Missing(name, title, f"The family {study.family} has no parameter that is its width.")
    rows = scales.scored(study)
    rows = rows[rows["full"]].reset_index(drop=True)
    if rows.empty:
        return Missing(name, title, "No trial has been trained to full length yet.")
    losses = rows.reindex(columns=[_LOSS])[_LOSS]
    widths = pd.to_numeric(rows.reindex(columns=[f"param.{width}"])[f"param.{width}"]).astype("Float64")
    if losses.nunique() < 2 or widths.nunique() < 2:
        which = "loss" if losses.nunique() < 2 else width
        return Missing(name, title, f"Among the {len(rows)} trials at full length {which} did not vary.")
    number, labels = thirds(widths)
    data = pd.DataFrame(
        {
            **{column: rows[column] for column in ("study", "trial", "name", "chosen", "score")},
            "loss": losses.astype("str"),
            "width": widths,
            "third": number,
            "widths": labels,
        }
    )
    order = _in_order(study, data)
    caption = (
        f"Mean score (balanced accuracy on tune) by loss and {width} of the trials of {study.name} at full length, and "
        f"each trial's score. The columns hold about a third of the trials each. Losses should be compared within a "
        f"column: where wide networks happened to come with one loss, its mean over all is higher for their sake. "
        f"Other parameters differ too. n = {len(data)} trials."
    )
    return Figure(name, title, caption, data, partial(_draw_loss, losses=order, width=width))


def _in_order(study: Study, data: pd.DataFrame) -> tuple[str, ...]:
    """The losses that were tried, in the order of the space."""
    options = next((param.domain.corners() for param in study.space.params if param.name == "loss"), ())
    known = [str(option) for option in options]
    found = set(data["loss"])
    return (*(loss for loss in known if loss in found), *sorted(found - set(known)))


def thirds(widths: "pd.Series[float]") -> tuple["pd.Series[int]", "pd.Series[str]"]:
    """The third to which each width belongs, 0 to 2, and the widths of that third as a label.

    Equal widths belong together, so thirds may differ in size, and there may be fewer. Where the width does not
    apply the third is -1.
    """
    known = np.sort(widths.dropna().to_numpy("float64"))
    if len(np.unique(known)) <= 3:
        cuts = np.unique(known)[:-1]
    else:
        cuts = np.unique(np.quantile(known, [1 / 3, 2 / 3], method="inverted_cdf"))
    found = np.searchsorted(cuts, widths.to_numpy("float64", na_value=np.inf), side="left")
    ranges = widths.groupby(found).agg(["min", "max"])
    labels = {
        third: scales.number(low) if low == high else f"{scales.number(low)}–{scales.number(high)}"
        for third, low, high in ranges.dropna().itertuples()
    }
    third = pd.Series(found, index=widths.index).where(widths.notna(), -1)
    # Of heavily tied widths a third may be empty: the others move together.
    rank = {old: new for new, old in enumerate(sorted(set(third) - {-1}))}
    return third.map({-1: -1, **rank}), third.map({-1: "does not apply", **labels})


def _draw_loss(data: pd.DataFrame, losses: tuple[str, ...], width: str) -> Drawing:
    columns = data[["third", "widths"]].drop_duplicates().sort_values("third")
    thirds_shown, labels = columns["third"].tolist(), columns["widths"].tolist()
    drawing = style.new(0.9 + 0.62 * max(len(losses), 3))
    left, right = drawing.subplots(1, 2, width_ratios=[1, 1.15])
    _cells(left, data, losses, thirds_shown)
    left.set_xticks(range(len(labels)), labels, fontsize=8)
    left.set_yticks(range(len(losses)), [style.shorten(loss) for loss in losses])
    left.set_xlabel(width)
    left.set_ylabel("loss")
    _strips(right, data, losses, dict(zip(thirds_shown, labels, strict=True)))
    right.legend(title=width, title_fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    return drawing


def _cells(panel: Axes, data: pd.DataFrame, losses: tuple[str, ...], columns: list[int]) -> None:
    cells = data.groupby(["loss", "third"])["score"].agg(["mean", "size"])
    wanted = pd.MultiIndex.from_product([losses, columns])
    means = cells["mean"].reindex(wanted).to_numpy("float64", na_value=np.nan).reshape(len(losses), len(columns))
    counts = cells["size"].reindex(wanted, fill_value=0).to_numpy().reshape(means.shape)
    low, high = scales.span(means[counts > 0])
    panel.imshow(means, cmap=style.BLUES, vmin=low - 0.2 * (high - low), vmax=high, aspect="auto")
    for (line, column), mean in np.ndenumerate(means):
        count = counts[line, column]
        words = f"{mean:.3f}\nn = {count}" if count else "no trial"
        dark = bool(count) and (mean - low) / (high - low) > 0.5
        colour = style.ON_DARK if dark else style.ON_LIGHT if count else style.INK
        panel.text(column, line, words, ha="center", va="center", fontsize=8, color=colour)
    panel.grid(visible=False)
    panel.tick_params(length=0)


def _strips(panel: Axes, data: pd.DataFrame, losses: tuple[str, ...], labels: dict[int, str]) -> None:
    looks = {-1: ("x", style.FAINT), 0: ("o", "#9ecae1"), 1: ("s", "#0072b2"), 2: ("^", "#08306b")}
    base = data["loss"].map({loss: place for place, loss in enumerate(losses)}).to_numpy("float64")
    score = scales.scores(data)
    spread = scales.jitter(data["trial"], 0.6 / len(labels))
    for column, (third, label) in enumerate(labels.items()):
        rows = data["third"].eq(third).to_numpy(bool)
        offset = (column - (len(labels) - 1) / 2) * 0.8 / len(labels)
        marker, colour = looks[third]
        edge = colour if marker == "x" else style.INK
        panel.scatter(
            base[rows] + offset + spread[rows],
            score[rows],
            s=16,
            marker=marker,
            facecolors=colour,
            edgecolors=edge,
            linewidths=0.6,
            label=label,
        )
        means = data[rows].groupby("loss")["score"].mean()
        middles = np.array([losses.index(loss) + offset for loss in means.index])
        panel.hlines(means.to_numpy("float64"), middles - 0.11, middles + 0.11, color=style.INK, linewidth=1.6)
    panel.set_xticks(range(len(losses)), [style.shorten(loss, 9) for loss in losses])
    panel.set_xlim(-0.5, len(losses) - 0.5)
    panel.set_ylabel("score")
    panel.grid(visible=False, axis="x")
