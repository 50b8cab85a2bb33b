"""Many small plots in one: panels drawn on a single canvas, whose unit is the inch.

Twenty axes of matplotlib's own take a second to draw, on which a report of many studies would spend a minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Drawing

from analysis.figures import style
from analysis.figures.scales import Numbers, Scale

_CHARACTER = 0.072  # of a tick's label, about, in inches
_SIZE = 6.5
_LONGEST = 11  # characters of a tick's label
_MARGIN = 0.04  # of an axis, at either end


@dataclass(frozen=True)
class Panel:
    """A rectangle of the canvas, in inches from its lower left corner, and the two axes that lie in it."""

    left: float
    bottom: float
    width: float
    height: float
    across: Scale
    up: Scale

    def place(self, across: Numbers, up: Numbers) -> tuple[Numbers, Numbers]:
        """Where on the canvas the positions of both axes lie."""
        return (
            self.left + self.width * _within(self.across, across),
            self.bottom + self.height * _within(self.up, up),
        )


def _within(axis: Scale, positions: Numbers) -> Numbers:
    margin = 0.5 if axis.steps else _MARGIN * axis.reach
    return (positions - axis.low + margin) / (axis.reach + 2 * margin)


def canvas(height: float) -> tuple[Drawing, Axes]:
    """An empty drawing and its canvas, `height` inches high."""
    drawing = style.new(height)
    drawing.set_layout_engine("none")
    plot = drawing.add_axes((0, 0, 1, 1))
    plot.set_axis_off()
    plot.set_xlim(0, style.WIDTH)
    plot.set_ylim(0, height)
    plot.set_autoscale_on(False)
    return drawing, plot


def slanted(axis: Scale, width: float) -> bool:
    """Whether the labels below a panel so many inches wide would run into each other if they were level."""
    return _longest(axis) * _CHARACTER > width / max(len(axis.ticks(4)), 1)


def foot(axis: Scale, width: float) -> float:
    """How many inches the labels below such a panel take."""
    return 0.14 + 0.52 * _CHARACTER * _longest(axis) if slanted(axis, width) else 0.18


def _longest(axis: Scale) -> int:
    return max((len(style.shorten(label, _LONGEST)) for _, label in axis.ticks(4)), default=0)


def frame(plot: Axes, panels: Sequence[Panel], *, titles: bool, inner: bool) -> None:
    """Draws the panels' axes: lines, ticks, labels. With `titles` the axis across is named above, else below.

    Without `inner` only the panels at the canvas' left say what lies up.
    """
    first = min(panel.left for panel in panels)
    spines, grid = [], []
    for panel in panels:
        left, bottom, right, top = panel.left, panel.bottom, panel.left + panel.width, panel.bottom + panel.height
        spines.append([(left, top), (left, bottom), (right, bottom)])
        slant = slanted(panel.across, panel.width)
        for tick, label in panel.across.ticks(4):
            x = float(panel.place(np.array([tick]), np.array([0.0]))[0][0])
            grid.append([(x, bottom), (x, top)])
            plot.text(
                x + (0.04 if slant else 0), bottom - 0.05, style.shorten(label, _LONGEST), fontsize=_SIZE,
                ha="right" if slant else "center", va="top", rotation=35 if slant else 0,
                rotation_mode="anchor" if slant else "default",
            )  # fmt: skip
        labelled = inner or left == first
        for tick, label in panel.up.ticks(4):
            y = float(panel.place(np.array([0.0]), np.array([tick]))[1][0])
            grid.append([(left, y), (right, y)])
            if labelled:
                plot.text(left - 0.05, y, style.shorten(label, _LONGEST), fontsize=_SIZE, ha="right", va="center")
        if labelled:
            gap = 0.12 + 0.9 * _CHARACTER * _longest(panel.up)
            plot.text(
                left - gap, bottom + panel.height / 2, panel.up.title, fontsize=7.5, rotation=90, ha="right",
                va="center",
            )  # fmt: skip
        if titles:
            plot.text(left, top + 0.05, panel.across.title, fontsize=7.5, va="bottom")
        else:
            below = bottom - foot(panel.across, panel.width) - 0.04
            plot.text(left + panel.width / 2, below, panel.across.title, fontsize=7.5, ha="center", va="top")
    plot.add_collection(LineCollection(grid, colors=style.FAINT, linewidths=0.5, alpha=0.35, zorder=0.5))
    plot.add_collection(LineCollection(spines, colors=style.INK, linewidths=0.8, zorder=1.5))
