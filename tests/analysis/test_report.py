"""The report as files: whole, safe, reproducible, and put in place at once."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Drawing

from analysis import report
from analysis.figures import Clip, Clips, Figure, Item, Missing, Section, Table, style
from analysis.load import Studies, load_studies
from tests.analysis.made import make_study
from trainables.errors import UserError

HOSTILE = "<b>&\"'$x$/.."


def draw(data: pd.DataFrame, label: str) -> Drawing:
    drawing = style.new(2)
    axes = drawing.subplots()
    axes.plot(data["x"], data["y"], color=style.family_colour("lstm"), marker="o", markerfacecolor=style.PAPER)
    axes.set_title(label)
    return drawing


def items(label: str = HOSTILE) -> Iterator[Item]:
    data = pd.DataFrame({"x": [1, 2, 3], "y": [0.1, 0.4, np.nan]})
    yield Figure(style.file_name("line", label), label, f"Of {label}, n = 3.", data, partial(draw, label=label))
    frame = pd.DataFrame({"model": [label, "other"], "score": [0.5, np.nan], "n": [1000, 2]})
    yield Table(
        style.file_name("table", label), label, "Two models.", frame, {"score": ".2f", "n": ","}, frozenset({0})
    )
    clip = Clip(label, "90 %", b"not really audio")
    yield Clips(Figure(style.file_name("sound", label), label, "A sound.", data, partial(draw, label="")), (clip,))
    yield Missing("nothing", "Nothing", f"There is no {label}.")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    return load_studies(make_study(tmp_path_factory.mktemp("studies") / "a <b>", trials=4))


@pytest.fixture
def made(studies: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "sections", lambda _: iter([Section("One", HOSTILE, items)]))
    return report.write(studies, tmp_path / "report")


def test_the_page_holds_everything_and_needs_nothing_else(made: Path) -> None:
    page = made.read_text()
    assert '<b>&"' not in page and "&lt;b&gt;&amp;" in page
    assert page.count("<svg") == 2 and page.count("<audio") == 1 and page.count('class="missing"') == 1
    assert not re.search(r'(src|href)="(?!#|data:)', page) and "url(http" not in page
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 3
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)
    assert "var(--ink)" in page and style.INK not in page.partition("</style>")[2]
    assert ">0.50<" in page and ">–<" in page and ">1,000<" in page


def test_every_figure_and_table_lies_beside_it_as_files(made: Path) -> None:
    names = {path.relative_to(made.parent).as_posix() for path in made.parent.rglob("*") if path.is_file()}
    line, table, sound = (style.file_name(kind, HOSTILE) for kind in ("line", "table", "sound"))
    assert names == {
        "index.html",
        f"tables/{table}.csv",
        *(f"figures/{name}.{end}" for name in (line, sound) for end in ("svg", "png")),
        *(f"data/{name}.csv" for name in (line, sound)),
    }
    assert pd.read_csv(made.parent / "tables" / f"{table}.csv")["model"][0] == HOSTILE
    assert (made.parent / "figures" / f"{line}.png").read_bytes().startswith(b"\x89PNG")
    assert style.INK in (made.parent / "figures" / f"{line}.svg").read_text()  # a file has colours of its own


def test_equal_studies_give_equal_bytes(made: Path, studies: Studies, tmp_path: Path) -> None:
    again = report.write(studies, tmp_path / "again")
    first, second = (
        {p.relative_to(page.parent): p.read_bytes() for p in page.parent.rglob("*") if p.is_file()}
        for page in (made, again)
    )
    assert first == second


def test_an_earlier_report_is_replaced_and_nothing_else_is(made: Path, studies: Studies, tmp_path: Path) -> None:
    (made.parent / "figures" / "old.svg").write_text("")
    report.write(studies, made.parent)
    assert not (made.parent / "figures" / "old.svg").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("my page")
    for place in (mine, mine / "index.html"):
        with pytest.raises(UserError, match="new, empty or an earlier report"):
            report.write(studies, place)
    assert (mine / "index.html").read_text() == "my page"


def test_a_report_that_fails_leaves_the_earlier_one(
    made: Path, studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    before = made.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match=r"folder that can be written.*No space left"):
            report.write(studies, made.parent)
    assert made.read_bytes() == before
    assert [path.name for path in made.parent.parent.iterdir()] == ["report"]

    def unreadable() -> Iterator[Item]:
        yield from items()
        raise PermissionError(13, "Permission denied", "corpus/a.wav")

    monkeypatch.setattr(report, "sections", lambda _: iter([Section("One", "", unreadable)]))
    with pytest.raises(UserError, match=r"needs to read .*corpus/a\.wav"):
        report.write(studies, made.parent)
    assert made.read_bytes() == before


@pytest.mark.parametrize("moment", [0, 1])
@pytest.mark.parametrize("error", [KeyboardInterrupt, PermissionError(13, "Permission denied")])
def test_the_earlier_report_survives_the_wrong_moment(
    moment: int, error: BaseException, made: Path, studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of the two renames that put a report into place fails, or the second."""
    before, rename, calls = made.read_bytes(), Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == moment + 1:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises((KeyboardInterrupt, UserError)):
        report.write(studies, made.parent)
    assert len(calls) == 1 + 2 * moment  # with that which brings it back
    assert made.read_bytes() == before
    assert [path.name for path in made.parent.parent.iterdir()] == ["report"]


def test_nothing_of_the_users_is_removed(made: Path, studies: Studies) -> None:
    mine = made.parent.with_name("report.partial")
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    (made.parent / ".DS_Store").write_text("")
    report.write(studies, made.parent)
    assert (mine / "notes.txt").read_text() == "mine"
    (made.parent / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"lies 'notes\.txt', which is no part"):
        report.write(studies, made.parent)
    assert (made.parent / "notes.txt").read_text() == "mine"


def test_a_link_to_a_report_stays_a_link(made: Path, studies: Studies, tmp_path: Path) -> None:
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to(made.parent)
    made.write_text(made.read_text() + "<!-- earlier -->")
    assert report.write(studies, link) == link / "index.html"
    assert link.is_symlink() and "earlier" not in made.read_text()
    other.mkdir()
    (other / "mine").write_text("")
    link.unlink()
    link.symlink_to(other)
    with pytest.raises(UserError, match="new, empty or an earlier report"):
        report.check_free(link)
    link.unlink()
    link.symlink_to(tmp_path / "new")
    report.write(studies, link)
    assert (tmp_path / "new" / "index.html").is_file()


def test_characters_that_xml_forbids_are_written_out(
    studies: Studies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = "a\x00b\x07c\x1b\ufffe\tü日𝄞"
    assert style.visible(odd) == "a\\x00b\\x07c\\x1b\\ufffe\tü日𝄞"
    monkeypatch.setattr(report, "sections", lambda _: iter([Section("One", odd, lambda: items(odd))]))
    page = report.write(studies, tmp_path / "odd")
    for file in page.parent.glob("figures/*.svg"):
        root = ElementTree.fromstring(file.read_bytes())
        if file.name.startswith("line"):
            assert any("\\x00b\\x07c" in (text.text or "") for text in root.iter("{http://www.w3.org/2000/svg}text"))
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", page.read_text()) and "a\\x00b" in page.read_text()


@pytest.mark.parametrize("words", [style.INK, style.PAPER, "url(#x)", 'href="#y"', ' id="z"', "#figure_1"])
def test_words_in_a_figure_stay_as_they_are(words: str) -> None:
    drawing = style.new(2)
    drawing.text(0.5, 0.5, words)
    drawing.subplots().plot([1, 2])
    with style.context():
        made = report.inline(style.svg(drawing).decode(), "n", words)
    texts = [text.text for text in ElementTree.fromstring(
        made.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', "xmlns:xlink" not in made)
    ).iter() if text.tag.endswith("text")]  # fmt: skip
    assert words in texts


@pytest.mark.parametrize(
    ("parts", "name"),
    [(("confusion", "mlp"), "confusion-mlp"), (("a", "b-c"), "a-b-c")],
)
def test_plain_names_stay_as_they_are(parts: tuple[str, ...], name: str) -> None:
    assert style.file_name(*parts) == name


def test_file_names_are_safe_and_differ() -> None:
    odd = ["a/b", "a b", "A b", "../..", "é", "", "x" * 300, "x" * 301, "日本"]
    names = [style.file_name("confusion", name) for name in odd]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]{1,80}", name) for name in names)


def test_a_familys_colour_is_its_own() -> None:
    assert len({style.family_colour(family) for family in style.FAMILIES}) == len(style.FAMILIES) == 8
    assert style.family_colour("gru") in style.OTHERS


def test_families_of_ones_own_have_colours_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style.spaces, "names", lambda: ("attention", "gru", *style.FAMILIES, "tcn"))
    own = [style.family_colour(family) for family in (*style.FAMILIES, "attention", "gru", "tcn")]
    assert len(set(own)) == 11
