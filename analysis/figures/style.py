"""How figures look: sizes, colours that all can tell apart, one colour per family everywhere.

Colours are those of Okabe and Ito (2008), chosen for colour-blind readers; all stand out from white and from black.
"""

import hashlib
import io
import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Drawing

import spaces

INK, FAINT, PAPER = "#1b1b1b", "#9a9a9a", "#ffffff"
# Words on the cells of a map, whose colours are the same in a dark page, where ink and paper are not.
ON_LIGHT, ON_DARK = "#111111", "#fdfdfd"
WIDTH = 7.2  # inches; a page's text is as wide

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c6d46")
OTHERS = ("#6b6b6b", "#9b111e", "#7f8000")  # of families that are not the project's own
FAMILIES = ("lstm", "blstm", "mlp", "cnn1d", "cnn2d", "vgg16", "googlenet", "resnet50")
BLUES = LinearSegmentedColormap.from_list("etude", ["#ffffff", "#9ecae1", "#0072b2", "#08306b"])

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

RC: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 110,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # a class named $x$ is no formula
    "svg.hashsalt": "etude",
    "svg.fonttype": "none",
}


def new(height: float = 3.2, width: float = WIDTH) -> Drawing:
    """An empty drawing, in inches. It belongs to no window and no global state."""
    return Drawing(figsize=(width, height), layout="constrained")


def family_colour(family: str) -> str:
    """A family's colour, the same in every figure, and up to three families beyond the project's own have their own."""
    if family in FAMILIES:
        return COLOURS[FAMILIES.index(family)]
    others = [name for name in spaces.names() if name not in FAMILIES]
    number = others.index(family) if family in others else int(hashlib.sha256(family.encode()).hexdigest(), 16)
    return OTHERS[number % len(OTHERS)]


def shorten(label: str, most: int = 18) -> str:
    """A label of at most so many characters."""
    return label if len(label) <= most else label[: most - 1] + "…"


def visible(text: str) -> str:
    """A text with those characters written out, as `\\x07`, that neither SVG nor a page may hold."""
    return _NOT_IN_XML.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def file_name(*parts: str) -> str:
    """A name that is safe for files and HTML anchors, readable where it can be, and different for different parts."""
    text = "-".join(parts)
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60]
    if plain == text:
        return plain
    whose = "-".join(parts[1:]) or text  # all files of one study have the same ending
    return f"{plain or 'x'}-{hashlib.sha256(whose.encode()).hexdigest()[:6]}"


def legend_outside(axes: Axes) -> None:
    """The legend to the right of the axes, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)


def svg(drawing: Drawing) -> bytes:
    """The drawing as SVG; equal drawings give equal bytes. Call within `context()`."""
    content = _saved(drawing, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return visible(content.decode()).encode()


def png(drawing: Drawing) -> bytes:
    """The drawing as PNG on white; equal drawings give equal bytes. Call within `context()`."""
    return _saved(drawing, format="png", metadata={"Software": None}, facecolor=PAPER)


def _saved(drawing: Drawing, **how: Any) -> bytes:
    buffer = io.BytesIO()
    with any_script():
        drawing.savefig(buffer, **how)
    return buffer.getvalue()


@contextmanager
def any_script() -> Iterator[None]:
    """Nothing is said of scripts that the font lacks: boxes in a PNG; in an SVG the reader's own fonts show them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def context() -> AbstractContextManager[None]:
    """The style, for as long as drawings are made and saved."""
    return mpl.rc_context(RC)
