"""What the parameters did: parallel coordinates, score against each, and values at the edge of their range."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

import spaces
from analysis.figures import Figure, Item, Missing, Table, panels, scales, style
from analysis.figures.importance import in_order, ranking, unknowable
from analysis.figures.interactions import loss_and_width, pairs
from analysis.figures.panels import Panel
from analysis.figures.scales import Scale
from analysis.load import Studies, Study
from search.adapt import SMALL_PICTURES
from spaces.domains import Choice, Float, Int, Param

_LANES = 10
_PANELS, _ACROSS = 20, 4
_MANY = 100  # more lines or dots than this are stored as a picture within the figure
_EDGE = 0.05  # of a range, in its own scale
_COMPLETE = ("frozen_stages", "momentum")  # nothing lies above: all stages are frozen, and momentum stays below one
_GREY = "#b5b5b5"


def items(studies: Studies) -> Iterator[Item]:
    """For each study: parallel coordinates, slices, pairs, loss and width, values at the edge of their range."""
    for study in studies.studies:
        order = ranking(study)
        yield parallel(study, order)
        yield from slices(study, order)
        yield pairs(study, order)
        yield loss_and_width(study)
        yield edges(study)


def nothing_to_show(study: Study) -> str | None:
    """Why there is nothing to draw of a study's parameters; None where there is."""
    rows = scales.scored(study)
    if not rows["full"].any():
        return "No trial has been trained to full length yet, and shorter ones cannot be compared."
    if len(rows) < 2:
        return "There is one trial only, so no parameter varied."
    if not scales.varied(study, rows):
        return "No parameter varied: all trials have the same values."
    return None


# Parallel coordinates


def parallel(study: Study, order: Sequence[str]) -> Figure | Missing:
    """A line per trial through the parameters that come first in `order`, at most ten, in the order of the space."""
    name, title = style.file_name("parallel", study.name), f"Parallel coordinates: {study.name}"
    if reason := nothing_to_show(study):
        return Missing(name, title, reason)
    rows = scales.scored(study)
    axes = _telling(scales.varied(study, rows), order)
    full = int(rows["full"].sum())
    caption = (
        f"A line per trial of {study.name}, through {_the_most(len(axes), study, rows)}. Coloured by score "
        f"(balanced accuracy on tune): the {full} trials at full length, the winner thick. "
        f"{_grey(len(rows) - full)} Where a parameter does not apply, "
        f"a line passes through the lane at the bottom. n = {len(rows)} trials."
    )
    kept = [str(column) for column in rows if not str(column).startswith("param.")]
    data = rows[kept + [axis.column for axis in axes]]
    return Figure(name, title, caption, data, partial(_draw_parallel, axes=axes))


def _faded(others: int) -> str:
    return f"Faded: the {others} others, whose scores after fewer epochs cannot be compared." if others else ""


def _grey(others: int) -> str:
    return f"Grey: the {others} that were stopped, failed or still run." if others else "All were trained in full."


def _the_most(count: int, study: Study, rows: pd.DataFrame) -> str:
    among = len(scales.varied(study, rows))
    if count == among:
        return f"all {among} parameters that varied" if among > 1 else "the one parameter that varied"
    which = "most important" if unknowable(study) is None else "first by how many values they took"
    return f"{count} of {among} parameters that varied, the {which}"


def _telling(axes: list[Scale], order: Sequence[str]) -> tuple[Scale, ...]:
    rank = {name: place for place, name in enumerate(order)}
    first = sorted(axes, key=lambda axis: rank.get(axis.name, len(rank)))[:_LANES]
    return tuple(axis for axis in axes if axis in first)


_BOTTOM = -0.16  # where the lane of missing values lies


def _draw_parallel(data: pd.DataFrame, axes: tuple[Scale, ...]) -> Drawing:
    drawing = style.new(4.0)
    drawing.set_layout_engine("none")  # it would spend most of the time on the labels
    plot = drawing.add_axes((0.085, 0.02, 0.79, 0.79))
    heights = np.column_stack([_heights(axis, data) for axis in axes])
    places = np.broadcast_to(np.arange(len(axes), dtype=float), heights.shape)
    if len(axes) == 1:  # one axis has no lines between axes: short ones across it
        heights, places = np.repeat(heights, 2, axis=1), places + np.array([-0.1, 0.1])
    lines = np.stack([places, heights], axis=2)
    full = data["full"].to_numpy(bool)
    grey = LineCollection(list(lines[~full]), colors=_GREY, linewidths=0.6, alpha=0.45, zorder=1)
    grey.set_rasterized(int((~full).sum()) > _MANY)
    plot.add_collection(grey)

    score, winner = scales.scores(data), data["chosen"].to_numpy(bool)
    rising = np.flatnonzero(full)[np.argsort(score[full], kind="stable")]  # the best lie on top
    widths = np.where(winner, 2.8, 1.1)
    coloured = LineCollection(list(lines[rising]), linewidths=widths[rising], cmap=scales.SCORES, zorder=2, alpha=0.9)
    coloured.set_array(score[rising])
    coloured.set_clim(*scales.shades(score[full]))
    coloured.set_rasterized(len(rising) > _MANY)
    plot.add_collection(coloured)
    scales.colour_bar(drawing, coloured, score[full], drawing.add_axes((0.91, 0.06, 0.016, 0.72)))
    _dress_lanes(plot, axes, bool((heights < _BOTTOM / 2).any()))
    return drawing


def _heights(axis: Scale, data: pd.DataFrame) -> scales.Numbers:
    """Where each trial crosses the axis; steps are spread a little, so that a line can be followed."""
    found = axis.units(data[axis.column])
    spread = min(0.06, 0.3 / max(len(axis.options) - 1, 1)) if axis.steps else 0.0
    missing = np.isnan(found)
    return np.where(missing, _BOTTOM, found) + scales.jitter(data["trial"], 1.0) * np.where(missing, 0.05, spread)


def _dress_lanes(plot: Axes, axes: tuple[Scale, ...], with_missing: bool) -> None:
    box = {"facecolor": style.PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    for place, axis in enumerate(axes):
        plot.plot([place, place], [0, 1], color=style.INK, linewidth=0.9, zorder=3)
        for tick, label in _lane_ticks(axis):
            height = (tick - axis.low) / axis.reach
            words = style.shorten(label, 10)
            plot.text(place + 0.05, height, words, fontsize=6.5, va="center", bbox=box, zorder=4)
        plot.text(place, 1.06, axis.title, fontsize=7.5, rotation=28, ha="left", va="bottom", rotation_mode="anchor")
    if with_missing:
        plot.axhspan(_BOTTOM - 0.05, _BOTTOM + 0.05, color=style.FAINT, alpha=0.2, linewidth=0, zorder=0)
        plot.text(-0.12, _BOTTOM, "does not\napply", fontsize=6.5, ha="right", va="center")
    plot.set_xlim(-0.15, len(axes) - 1 + 0.55)
    plot.set_ylim(_BOTTOM - 0.06 if with_missing else -0.04, 1.04)
    plot.axis("off")


def _lane_ticks(axis: Scale) -> list[tuple[float, str]]:
    """The axis' ends, and the round numbers that keep away from them."""
    if axis.steps:
        return axis.ticks(0)
    near = 0.07 * axis.reach
    between = [tick for tick in axis.ticks(5) if axis.low + near < tick[0] < axis.high - near]
    return [*axis.ends(), *between]


# Slices


def slices(study: Study, order: Sequence[str]) -> Iterator[Figure | Missing]:
    """Score against each parameter that varied, in the order of `ranking`, as many figures as needed."""
    title = f"Score against each parameter: {study.name}"
    if reason := nothing_to_show(study):
        yield Missing(style.file_name("slices", study.name), title, reason)
        return
    rows = scales.scored(study)
    rank = {name: place for place, name in enumerate(order)}
    axes = sorted(scales.varied(study, rows), key=lambda axis: rank.get(axis.name, len(rank)))
    kept = [str(column) for column in rows if not str(column).startswith("param.")]
    full, parts = int(rows["full"].sum()), math.ceil(len(axes) / _PANELS)
    for part in range(parts):
        shown = tuple(axes[part * _PANELS : (part + 1) * _PANELS])
        number = f" ({part + 1} of {parts})" if parts > 1 else ""
        caption = (
            f"Score (balanced accuracy on tune) of the trials of {study.name} against each parameter that varied, over "
            f"the range that was searched{f', {in_order(study)}' if order else ''}. Solid: the {full} trials at "
            f"full length. {_faded(len(rows) - full)} "
            f"A trial to which a parameter does not apply is left out there. Dots of a category are spread sideways. "
            f"n = {len(rows)} trials."
        )
        yield Figure(
            # A number after the study's name might be another study's.
            style.file_name(f"slices{part + 1}" if parts > 1 else "slices", study.name),
            title + number,
            caption,
            rows[kept + [axis.column for axis in shown]],
            partial(_draw_slices, axes=shown, colour=style.family_colour(study.family)),
        )


_ACROSS_INCHES, _LEFT, _TOP = 1.69, 0.52, 0.36
_TALL = 1.0  # of a panel with its title


def _draw_slices(data: pd.DataFrame, axes: tuple[Scale, ...], colour: str) -> Drawing:
    score = scales.scores(data)
    low, high = scales.span(score)
    shown, height = _places(axes, Scale("score", low - 0.04 * (high - low), high + 0.08 * (high - low)))
    drawing, plot = panels.canvas(height)
    dots = [_dots(panel, data, score) for panel in shown]
    groups = {kind: rows.to_numpy(bool) for kind, rows in _groups(data).items() if rows.any()}
    for kind, rows in groups.items():
        line = _handle(kind, colour)
        line.set_data(*(np.concatenate([panel[axis][rows] for panel in dots]) for axis in (0, 1)))
        line.set_rasterized(int(rows.sum()) > _MANY)
        plot.add_line(line)
    panels.frame(plot, shown, titles=True, inner=False)
    handles = [_handle(kind, colour) for kind in groups]
    drawing.legend(handles=handles, loc="upper left", ncols=len(handles), bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)
    return drawing


def _places(axes: tuple[Scale, ...], score: Scale) -> tuple[list[Panel], float]:
    """The panels, row by row, and how high all are; a row whose labels are slanted needs more room below."""
    width, shown, top = _ACROSS_INCHES - 0.24, [], _TOP
    for start in range(0, len(axes), _ACROSS):
        row = axes[start : start + _ACROSS]
        foot = max(panels.foot(axis, width) for axis in row)
        bottom = top + _TALL
        shown += [
            Panel(_LEFT + place * _ACROSS_INCHES, -bottom, width, _TALL - 0.26, axis, score)
            for place, axis in enumerate(row)
        ]
        top = bottom + foot + 0.05
    height = top + 0.05
    return [replace(panel, bottom=panel.bottom + height) for panel in shown], height


def _dots(panel: Panel, data: pd.DataFrame, score: scales.Numbers) -> tuple[scales.Numbers, scales.Numbers]:
    """Where the trials stand on the canvas; nowhere (NaN) where the parameter does not apply."""
    spread = scales.jitter(data["trial"], 0.5) if panel.across.steps else 0.0
    return panel.place(panel.across.positions(data[panel.across.column]) + spread, score)


_KINDS = ("stopped, failed or running", "at full length", "default", "published", "winner")


def _groups(data: pd.DataFrame) -> dict[str, "pd.Series[bool]"]:
    """Which trials are drawn how; every trial is in one group."""
    full, origin = data["full"], data["origin"]
    winner = data["chosen"] & full
    published, default = origin.eq("published") & full & ~winner, origin.eq("default") & full & ~winner
    rest = full & ~published & ~default & ~winner
    return dict(zip(_KINDS, (~full, rest, default, published, winner), strict=True))


def _handle(kind: str, colour: str) -> Line2D:
    """How trials of a kind are drawn: in panels and in the legend."""
    marker, size, face, edge, alpha, above = {
        "stopped, failed or running": ("o", 3.0, _GREY, "none", 0.85, 2),
        "at full length": ("o", 3.6, colour, "none", 0.85, 3),
        "default": ("D", 4.4, style.PAPER, style.INK, 1.0, 4),
        "published": ("s", 4.4, style.PAPER, style.INK, 1.0, 4),
        "winner": ("*", 9.5, colour, style.INK, 1.0, 5),
    }[kind]
    return Line2D(
        [], [], linestyle="none", marker=marker, markersize=size, markerfacecolor=face, markeredgecolor=edge,
        markeredgewidth=0.8, alpha=alpha, zorder=above, label=kind,
    )  # fmt: skip


# Values at the edge of their range


def edges(study: Study) -> Table | Missing:
    """The values of the winner that lie at the edge of their range, each with the advice to widen it."""
    name, title = style.file_name("edges", study.name), f"Values at the edge of their range: {study.name}"
    winner = study.trials[study.trials["chosen"]]
    if winner.empty:
        return Missing(name, title, "No trial has been trained to full length yet, so there is no best one.")
    best = winner.iloc[0]
    found = []
    for param in study.space.params:
        value = best.get(f"param.{param.name}")
        if value is None or pd.isna(value):
            continue
        end = edge(param, value)
        if end and not _cut_by_corpus(study, param, end):
            found.append(
                {
                    "parameter": param.name,
                    "value": value if isinstance(value, str) else scales.number(value),
                    "range": str(param.domain),
                    "edge": end,
                    "advice": _advice(param, end, study),
                }
            )
    if not found:
        reason = f"No value of the best trial ({best['name']}) lies at the edge of its range; none need be widened."
        return Missing(name, title, reason)
    caption = (
        f"Values of the best of {int(study.trials['full'].sum())} trials at full length ({best['name']}, by balanced "
        f"accuracy on tune) that lie within {_EDGE:.0%} of an end of their range, in its own scale, or at the first or "
        f"last of several numbers. Beyond it may be better ones. Ends beyond which nothing lies, such as zero, are "
        f"left out. One trial's value may lie there by chance: see the scores against each parameter."
    )
    return Table(name, title, caption, pd.DataFrame(found))


def edge(param: Param, value: Any) -> str | None:
    """Which edge of its range a value lies at or beyond, "lower" or "upper", if it could go on there; else None."""
    numbers = _numbers(param)
    if numbers is None or isinstance(value, str):
        return None
    low, high = numbers
    log = not isinstance(param.domain, Choice) and param.domain.log
    if log and value > 0:
        low, high, value = math.log(low), math.log(high), math.log(value)
    # Of a few numbers only the first and the last are edges: 64 is 3 % of the way from 32 to 1024.
    near = 0.0 if isinstance(param.domain, Choice) else _EDGE * (high - low)
    near += 1e-9 * (high - low)
    if value >= high - near:
        return "upper" if param.name not in _COMPLETE else None
    return "lower" if value <= low + near and not _lowest(param) else None


def _cut_by_corpus(study: Study, param: Param, end: str) -> bool:
    """Whether a range ends where the corpus' clips do, rather than where the family's space does."""
    known = study.family in spaces.names() and not _restricted(study, param)
    return known and param.name == "seconds" and end == "upper" and _goes_on(study, param, end)


def _numbers(param: Param) -> tuple[float, float] | None:
    """The ends of a range of numbers; None for categories, for what is fixed, and for a switch such as 0 or 0.95."""
    domain = param.domain
    if isinstance(domain, Float | Int):
        return (domain.low, domain.high) if domain.low < domain.high else None
    numbers = [option for option in domain.options if not isinstance(option, str)]
    if len(numbers) < len(domain.options) or len(numbers) < 2 or (len(numbers) == 2 and 0 in numbers):
        return None
    return (min(numbers), max(numbers))


def _lowest(param: Param) -> bool:
    """Whether nothing lies below the range: no parameter is negative, and counts begin at one."""
    domain = param.domain
    low = min(option for option in domain.corners() if not isinstance(option, str))
    return low <= 0 or (low == 1 and isinstance(low, int))


def _advice(param: Param, end: str, study: Study) -> str:
    words = "larger" if end == "upper" else "smaller"
    wish = _restricted(study, param)
    if not wish or not _goes_on(study, param, end):
        return f"Search again with {words} values: widen the range in the family's space."
    if wish == SMALL_PICTURES:
        return (
            f"Without a GPU, studies try small pictures alone: search again with --fix {param.name}=… and {words} ones."
        )
    return f"--fix {wish} restricted it: search again with {words} values allowed."


def _goes_on(study: Study, param: Param, end: str) -> bool:
    """Whether the family's own range goes beyond that end of the study's; so it may be taken where none is known."""
    if study.family not in spaces.names():
        return True
    own = next((_numbers(own) for own in spaces.load(study.family).params if own.name == param.name), None)
    here = _numbers(param)
    return own is None or here is None or (own[1] > here[1] if end == "upper" else own[0] < here[0])


def _restricted(study: Study, param: Param) -> str | None:
    """What --fix said of a parameter, if anything."""
    wishes = [wish for wish in study.spec.get("fixed", ()) if wish.partition("=")[0].strip() == param.name]
    return str(wishes[-1]) if wishes else None
