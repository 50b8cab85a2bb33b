"""A parameter's axis: where its values stand, and what is written beside it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.load import Study
from spaces.domains import Choice, Int, Param

Numbers = npt.NDArray[np.float64]

SCORES = LinearSegmentedColormap.from_list(
    "scores", ["#d8d67a", "#7cc58b", "#2f9fa8", "#2f6fc4", "#8a2fc9"]
)  # from pale to strong, and none so dark or so pale that it could not be told from ink or paper

_FEW = 5  # an integer with no more values than this is shown as steps: nothing lies between two and three layers


@dataclass(frozen=True)
class Scale:
    """One parameter's axis. `low` and `high` are its ends, as positions: powers of ten where `log`, else values.

    `options` are the labels of a parameter that takes steps, categories or a few numbers, and stand at 0, 1, 2 …;
    the axis is as long as the domain, or longer where a trial lies outside it, as a published recipe may.
    """

    name: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    options: tuple[str, ...] = ()

    @property
    def column(self) -> str:
        """The parameter's column in the trial dataframe."""
        return f"param.{self.name}"

    @property
    def steps(self) -> bool:
        """Whether nothing lies between two values, so that lines and contours between them would mean nothing."""
        return bool(self.options)

    @property
    def title(self) -> str:
        """The parameter's name, with its scale where that is logarithmic."""
        return f"{style.shorten(self.name, 24)} (log)" if self.log else style.shorten(self.name, 24)

    def positions(self, values: "pd.Series[Any]") -> Numbers:
        """Where the values stand, NaN where one is missing."""
        if self.options:
            index = {option: float(place) for place, option in enumerate(self.options)}
            found = [math.nan if pd.isna(value) else index[label(value)] for value in values]
            return np.array(found, dtype=np.float64)
        plain: Numbers = pd.to_numeric(values).to_numpy("float64", na_value=np.nan)
        return np.log10(np.where(plain > 0, plain, np.nan)) if self.log else plain

    def units(self, values: "pd.Series[Any]") -> Numbers:
        """The positions as parts of the axis, 0 at its lower end and 1 at its upper."""
        return (self.positions(values) - self.low) / self.reach

    @property
    def reach(self) -> float:
        """The length of the axis, in positions."""
        return self.high - self.low

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Positions and labels: of every option, else of at most `most` round numbers."""
        if self.options:
            return [(float(place), option) for place, option in enumerate(self.options)]
        if self.log:
            found = _decades(self.low, self.high, most)
        else:
            locator = MaxNLocator(most - 1, integer=self.whole, steps=[1, 2, 2.5, 5, 10])
            found = [float(tick) for tick in locator.tick_values(self.low, self.high)]
        hair = 1e-9 * self.reach
        inside = [tick for tick in found if self.low - hair <= tick <= self.high + hair]
        return [(tick, number(10**tick if self.log else tick)) for tick in inside]

    def ends(self) -> list[tuple[float, str]]:
        """The ends of the axis with their labels."""
        return [(end, number(10**end if self.log else end)) for end in (self.low, self.high)]


def scale(param: Param, values: "pd.Series[Any]") -> Scale:
    """The axis of a parameter, long enough for `values`."""
    domain = param.domain
    if isinstance(domain, Choice):
        return _stepped(param.name, [label(option) for option in domain.options], values)
    whole = isinstance(domain, Int)
    if isinstance(domain, Int) and not domain.log and (domain.high - domain.low) // domain.step < _FEW:
        return _stepped(param.name, [label(n) for n in range(domain.low, domain.high + 1, domain.step)], values)
    known = pd.to_numeric(values).dropna()
    known = known[known > 0] if domain.log else known
    low, high = min([domain.low, *known]), max([domain.high, *known])
    if low == high:  # --fix left a single value
        low, high = (low / 2, high * 2) if domain.log else (low - 1, high + 1)
    if domain.log:
        low, high = math.log10(low), math.log10(high)
    return Scale(param.name, float(low), float(high), domain.log, whole)


def varied(study: Study, rows: pd.DataFrame) -> list[Scale]:
    """The axes of those parameters that have at least two values in `rows` of the study's trials, as in the space."""
    names = [param for param in study.space.params if f"param.{param.name}" in rows]
    return [
        scale(param, rows[f"param.{param.name}"])
        for param in names
        if rows[f"param.{param.name}"].nunique(dropna=True) > 1
    ]


def scored(study: Study) -> pd.DataFrame:
    """The trials that have a score, a row each: what they are, their score, and their parameters."""
    trials = study.trials
    about = ["study", "trial", "name", "origin", "baseline", "state", "full", "chosen", "epochs", "score"]
    params = [str(column) for column in trials if str(column).startswith("param.")]
    known = np.isfinite(trials["score"].to_numpy("float64", na_value=np.nan))
    rows: pd.DataFrame = trials.loc[known, about + params]
    return rows.reset_index(drop=True)


def scores(rows: pd.DataFrame) -> Numbers:
    """The trials' scores as plain numbers."""
    return rows["score"].to_numpy("float64")


def span(values: Numbers) -> tuple[float, float]:
    """The least and the largest value, a little apart where they are the same."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if high - low > 1e-6 else (low - 0.01, high + 0.01)


def jitter(trials: "pd.Series[Any]", width: float, *, other: bool = False) -> Numbers:
    """How far each trial's dot stands from its column's middle, at most half of `width`: the same in every figure.

    `other` is for a second direction, lest the dots of two lie on a diagonal.
    """
    step = math.sqrt(2) if other else (math.sqrt(5) - 1) / 2  # multiples of both fill the interval evenly
    return (np.mod(trials.to_numpy("float64") * step, 1.0) - 0.5) * width


def shades(values: Numbers) -> tuple[float, float]:
    """The scores at which colours begin and end: outliers below do not take the colours from all others."""
    low, high = span(values)
    if high > values.max():
        return low, high
    quarter, most = np.quantile(values, [0.25, 0.75])
    return max(low, min(float(quarter - 1.5 * (most - quarter)), high - 0.01)), high


def colour_bar(drawing: Drawing, colours: ScalarMappable, values: Numbers, place: Axes) -> None:
    """The legend of `SCORES`, pointed where values lie below its end."""
    low = colours.get_clim()[0]
    extend = "min" if low is not None and values.min() < low else "neither"
    bar = drawing.colorbar(colours, cax=place, extend=extend)
    bar.ax.set_xlabel("score", fontsize=8, labelpad=9)  # below: beside it three decimals leave no room
    bar.ax.tick_params(labelsize=7)


def number(value: float) -> str:
    """A number as short as it can be said: 0.001, 1e-4, 16000."""
    if 0 < abs(value) < 0.001:
        digits, _, power = f"{value:.3e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _stepped(name: str, options: list[str], values: "pd.Series[Any]") -> Scale:
    found = dict.fromkeys(label(value) for value in values.dropna().unique())
    labels = (*options, *sorted(set(found) - set(options), key=_natural))
    return Scale(name, 0.0, max(len(labels) - 1.0, 1e-9), options=labels)


def _natural(label: str) -> tuple[float, str]:
    try:
        return (float(label), label)
    except ValueError:
        return (math.inf, label)


def label(value: object) -> str:
    """A value's label: that of an option 8000 and of 8000.0 in a column with gaps is the same."""
    return f"{value:.10g}" if isinstance(value, int | float | np.number) else str(value)


def _decades(low: float, high: float, most: int) -> list[float]:
    """Round numbers' logarithms: the most of them that are no more than `most`."""
    whole = range(math.floor(low), math.ceil(high) + 1)
    for firsts in ((1, 2, 5), (1, 3), (1,)):
        found = [ten + math.log10(first) for ten in whole for first in firsts]
        found = [tick for tick in found if low - 1e-9 <= tick <= high + 1e-9]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]
