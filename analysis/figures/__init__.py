"""Every figure and table of the report. A module per subject; each takes studies and yields `Item`s.

An item is a figure, a table, or the sentence that stands where one cannot be: `Figure`, `Table`, `Missing`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pandas as pd
from markupsafe import escape
from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Figure:
    """A figure: `draw` makes it of `data` alone, so that what is stored beside it is what it shows.

    `name` is unique in a report and made by `style.file_name`; the caption says what is shown, from which trials or
    models and on which split, and how many.
    """

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    draw: Callable[[pd.DataFrame], Drawing]

    def _repr_html_(self) -> str:
        """The figure in a notebook."""
        from analysis.figures import style

        with style.context():
            picture = style.svg(self.draw(self.data)).decode()
        words = f"<figcaption><b>{escape(self.title)}</b> {escape(self.caption)}</figcaption>"
        return f'<figure style="background: white; color: black">{picture[picture.index("<svg") :]}{words}</figure>'


@dataclass(frozen=True)
class Table:
    """A table. `formats` maps columns to format specifications such as ".3f"; `marked` names rows to stand out."""

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    formats: dict[str, str] = field(default_factory=dict)
    marked: frozenset[int] = frozenset()

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        return f"{self.data.to_html(index=False, escape=True)}<p>{escape(self.caption)}</p>"


@dataclass(frozen=True)
class Clip:
    """A recording that can be played: an audio file's bytes, and what is said beside it."""

    title: str
    words: str
    audio: bytes
    media_type: str = "audio/mpeg"


@dataclass(frozen=True)
class Clips:
    """A figure of waveforms or spectrograms with the recordings that it shows, in its order."""

    figure: Figure
    clips: tuple[Clip, ...]

    @property
    def title(self) -> str:
        """The figure's title."""
        return self.figure.title


@dataclass(frozen=True)
class Missing:
    """What stands in the place of a figure or table that cannot be made: a sentence that says why."""

    name: str
    title: str
    reason: str

    def _repr_html_(self) -> str:
        """The sentence in a notebook."""
        return f"<p><b>{escape(self.title)}</b> {escape(self.reason)}</p>"


Item = Figure | Table | Clips | Missing


@dataclass(frozen=True)
class Section:
    """A chapter of the report. `items` makes its items one by one, so that none is kept longer than need be."""

    title: str
    words: str
    items: Callable[[], Iterable[Item]]
