"""The report of one or several studies: one page that needs nothing else, and every figure and table as files.

    report/index.html    the page; figures and recordings are part of it
    report/figures/      each figure as SVG and PNG
    report/data/         the data behind each figure, as CSV
    report/tables/       each table as CSV

Equal studies give equal bytes.
"""

import base64
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import pandas as pd

from analysis.figures import Clips, Figure, Item, Missing, Section, Table, style
from analysis.load import Studies
from trainables.corpora.importer import cores
from trainables.errors import UserError

_PAGE, _FOLDERS = "index.html", ("figures", "data", "tables")
_STRAY = ".DS_Store"  # laid by a Mac into every folder that is looked at
_MARK = '<meta name="generator" content="etude">'

_FEW = 12  # studies and models
_MOST_DRAWERS = 4
_PIXELS_PER_POINT = 1.48  # a drawing of the usual width is as wide as a line of text

_TAG = re.compile("<[^>]*>")
_REFERENCE = re.compile(r'(href="#|url\(#)([\w.-]+)')

STATES = ("complete", "pruned", "failed", "running")

Listen = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """One item as the page shows it: markup that is safe, beside words that the template escapes."""

    kind: str
    name: str
    title: str
    words: str
    markup: str = ""
    head: tuple[tuple[str, bool], ...] = ()
    rows: tuple[tuple[tuple[tuple[str, bool], ...], bool], ...] = ()
    sounds: tuple[tuple[str, str, str], ...] = ()


def write(studies: Studies, output: Path, listen: Listen = lambda title: None) -> Path:
    """Writes the report into `output`, which must be new, empty or an earlier report; returns its page.

    It is made beside and put there when it is whole. `listen` is told the title of each item. Raises UserError.
    """
    check_free(output)
    place = Path(os.path.realpath(output))
    with _writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    made, earlier = beside / "made", beside / "earlier"
    try:
        with _writing(place):
            for name in _FOLDERS:
                (made / name).mkdir(parents=True)
        page = render(studies, made, listen)
        with _writing(place):
            (made / _PAGE).write_text(page, encoding="utf-8")
            check_free(output)  # again, since drawing takes its time
            if place.exists():
                place.rename(earlier)
            made.rename(place)
    except OSError as error:
        raise UserError(
            f"A report needs to read its studies and their corpus, but that failed ({error}). "
            f"Check that they are there, and that there is room for temporary files."
        ) from error
    finally:
        if earlier.exists() and not place.exists():
            earlier.rename(place)
        shutil.rmtree(beside, ignore_errors=True)
    return output / _PAGE


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """What fails in it is said to be the output's fault."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"A report needs a folder that can be written, but {error.filename or output} cannot be "
            f"({error.strerror or error}). Name another with --output."
        ) from error


def check_free(output: Path) -> None:
    """Raises UserError where something lies in the way that is no report, or in a report that is no part of it."""
    place = Path(os.path.realpath(output))
    if not os.path.lexists(place):
        return
    with _writing(place):
        found = {path.name for path in place.iterdir()} - {_STRAY} if place.is_dir() else {place.name}
        if not found:
            return
        page, known = place / _PAGE, {_PAGE, *_FOLDERS}
        if not page.is_file() or _MARK not in page.read_text(encoding="utf-8", errors="replace")[:2000]:
            raise UserError(
                f"The folder for the report must be new, empty or an earlier report, but {output} is not. "
                f"Name another with --output."
            )
    if others := sorted(found - known):
        raise UserError(
            f"The folder for the report is replaced as a whole, but in {output} lies {others[0]!r}, which is no part "
            f"of a report. Move it elsewhere, or name another folder with --output."
        )


def render(studies: Studies, folder: Path, listen: Listen = lambda title: None) -> str:
    """The page; figures, data and tables are written into `folder` on the way."""
    chapters: list[dict[str, Any]] = []
    with _drawers(studies) as pool:
        for section in sections(studies):
            parts = []
            for item in section.items():
                listen(f"{section.title}: {item.title}")
                parts.append(pool.submit(_part, item, folder) if pool else _part(item, folder))
            chapters.append({"title": section.title, "words": section.words, "parts": parts})
        listen("Drawing what is left …")
        for chapter in chapters:
            chapter["parts"] = [part.result() if isinstance(part, Future) else part for part in chapter["parts"]]
    facts = [_facts(study) for study in studies.studies]
    return style.visible(_template().render(mark=_MARK, chapters=chapters, studies=facts))


@contextmanager
def _drawers(studies: Studies) -> Iterator[ProcessPoolExecutor | None]:
    """Processes that draw, one for each core; none for a report that is drawn before they would have started."""
    if len(studies.studies) + len(studies.models) < _FEW or cores() == 1:
        yield None
        return
    # Fresh processes: a fork of this one would copy the locks of Arrow's threads as they stand.
    pool = ProcessPoolExecutor(min(cores(), _MOST_DRAWERS), get_context("spawn"))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            "The processes that draw must be left to run, but one was ended, perhaps for want of memory. "
            "Free some and draw the report again."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def sections(studies: Studies) -> Iterator[Section]:
    """The chapters, each made only when it is asked for."""
    from analysis.figures import audio, comparison, evaluation, importance, overview, parameters, progress

    yield Section(
        "Which model",
        "Models were chosen by balanced accuracy on the tune split; test was scored afterwards, once.",
        lambda: overview.items(studies),
    )
    yield Section(
        "How the search went",
        "Only trials that trained in full are compared; stopped ones are faded.",
        lambda: progress.items(studies),
    )
    yield Section(
        "What mattered",
        "Parameters and scores of trials. What goes together need not be cause and effect.",
        lambda: (*importance.items(studies), *parameters.items(studies)),
    )
    yield Section(
        "The models on data they have not seen",
        "Everything here is computed from the stored predictions of the chosen models and the published recipes.",
        lambda: evaluation.items(studies),
    )
    yield Section(
        "Model against model",
        "Differences are paired: both models answer the same clips.",
        lambda: comparison.items(studies),
    )
    yield Section(
        "What it sounds like",
        "Recordings of the corpus, with what the best model made of them.",
        lambda: audio.items(studies),
    )


def _part(item: Item, folder: Path) -> Part:
    """What the page shows of an item, and its files."""
    with style.context():
        return _drawn(item, folder)


def _drawn(item: Item, folder: Path) -> Part:
    if isinstance(item, Missing):
        return Part("missing", item.name, item.title, item.reason)
    if isinstance(item, Table):
        with _writing(folder):
            item.data.to_csv(folder / "tables" / f"{item.name}.csv", index=False)
        return _table(item)
    figure = item.figure if isinstance(item, Clips) else item
    sounds = tuple(
        (clip.title, clip.words, f"data:{clip.media_type};base64,{base64.b64encode(clip.audio).decode()}")
        for clip in (item.clips if isinstance(item, Clips) else ())
    )
    markup = _save(figure, folder)
    return Part("figure", figure.name, figure.title, figure.caption, markup, sounds=sounds)


def _table(item: Table) -> Part:
    """A table's cells as text, numbers marked as such."""
    numbers = [pd.api.types.is_numeric_dtype(kind) for kind in item.data.dtypes]
    formats = [item.formats.get(str(name), "") for name in item.data]
    rows = []
    for place, row in enumerate(item.data.itertuples(index=False, name=None)):
        texts = (_cell(value, how) for value, how in zip(row, formats, strict=True))
        rows.append((tuple(zip(texts, numbers, strict=True)), place in item.marked))
    head = tuple((str(name).replace("_", " "), number) for name, number in zip(item.data, numbers, strict=True))
    return Part("table", item.name, item.title, item.caption, head=head, rows=tuple(rows))


def _save(figure: Figure, folder: Path) -> str:
    """Writes a figure and its data; returns it as markup for the page."""
    drawing = figure.draw(figure.data)
    vector, pixels = style.svg(drawing), style.png(drawing)
    with _writing(folder):
        figure.data.to_csv(folder / "data" / f"{figure.name}.csv", index=False)
        (folder / "figures" / f"{figure.name}.svg").write_bytes(vector)
        (folder / "figures" / f"{figure.name}.png").write_bytes(pixels)
    return inline(vector.decode(), figure.name, figure.title)


def inline(svg: str, name: str, title: str) -> str:
    """An SVG file as a part of a page: names that are unique in it, and ink and paper as the page has them."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = {match[2] for tag in _TAG.findall(svg) for match in _REFERENCE.finditer(tag)}

    def rename(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    def adapt(match: re.Match[str]) -> str:
        tag = re.sub(r' id="([^"]*)"', rename, match[0])
        tag = _REFERENCE.sub(rf"\1{name}-\2", tag)
        return tag.replace(style.INK, "var(--ink)").replace(style.PAPER, "var(--paper)")

    svg = _TAG.sub(adapt, svg)  # what stands between tags is a figure's words
    label, width = markupsafe.escape(title), re.search(r'width="([\d.]+)pt"', svg)
    assert width, "Matplotlib gives a drawing's width in points"
    size = f"max-width: {_PIXELS_PER_POINT * float(width[1]):.0f}px"
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}" style="{size}"', 1)


def _cell(value: Any, how: str) -> str:
    """A table's cell as text; what is missing is a dash."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if how:
        return format(value, how)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _facts(study: Any) -> dict[str, Any]:
    """What the head of the page says of a study."""
    states = study.trials["state"].value_counts()
    return {
        "name": study.name,
        "family": study.space.title,
        "corpus": study.spec["data"]["corpus"],
        "task": study.spec["data"]["task"],
        "classes": len(study.spec["classes"]),
        "trials": ", ".join(f"{states[name]} {name}" for name in STATES if name in states),
        "epochs": study.spec["max_epochs"],
        "created": str(study.spec["created"])[:10],
        "commit": study.spec["commit"] or "unknown",
        "splits": ", ".join(
            f"{name} {row['clips']:,} clips of {row['groups']:,} groups" for name, row in study.spec["splits"].items()
        ),
    }


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")
