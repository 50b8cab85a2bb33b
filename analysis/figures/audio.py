"""Recordings that one can see and hear: samples, spectrograms, and those a model is most and least sure of.

They come from the test split of each corpus, judged by the model that is best on its tune split.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Drawing
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from analysis import sounds
from analysis.figures import Clip, Clips, Figure, Item, Missing, style
from analysis.figures.panels import canvas
from analysis.load import Model, Studies
from analysis.sounds import Sounds
from trainables.errors import UserError

SPLIT = "test"
MOST_CLASSES = 12
BINS, BINS_ALONE = 200, 400  # of an envelope: about as many as a small and a large waveform have pixels
MOMENTS = 128  # of a spectrogram
HIGH, LOW = 0.9, 0.1
COLUMNS = 3
TITLE_SIZE, TICK_SIZE = 7, 6.5
_WAVE = "#6b7f94"  # no family's colour: a recording is no model's


@dataclass(frozen=True)
class Selection:
    """One recording per class: `choose` keeps the clips that qualify and puts the one to be shown first.

    `which` goes on after "Of each class the clip"; `none` stands in the figure's place where no clip qualifies.
    """

    what: str
    title: str
    which: str
    none: str
    choose: Callable[[pd.DataFrame], pd.DataFrame]


SELECTIONS = (
    Selection(
        "very-likely",
        "Where the right class is very likely",
        f"whose right class got the highest probability, if above {HIGH}",
        f"In no clip did the right class get a probability above {HIGH}.",
        lambda clips: _by(clips[clips["p_true"] > HIGH], "p_true", ascending=False),
    ),
    Selection(
        "very-unlikely",
        "Where the right class is very unlikely",
        f"whose right class got the lowest probability, if below {LOW}",
        f"In no clip did the right class get a probability below {LOW}.",
        lambda clips: _by(clips[clips["p_true"] < LOW], "p_true", ascending=True),
    ),
)
NO_RIGHT, NO_WRONG = "No clip is classified rightly.", "No clip is classified wrongly."
BOUNDARY = (
    Selection(
        "nearest-right",
        "Right, nearest to the decision boundary",
        "that is classified rightly by the smallest margin",
        NO_RIGHT,
        lambda clips: _by(clips[_right(clips)], "margin", ascending=True),
    ),
    Selection(
        "nearest-wrong",
        "Wrong, nearest to the decision boundary",
        "that is classified wrongly by the smallest margin",
        NO_WRONG,
        lambda clips: _by(clips[~_right(clips)], "margin", ascending=False),
    ),
    Selection(
        "farthest-right",
        "Right, farthest from the decision boundary",
        "that is classified rightly by the largest margin",
        NO_RIGHT,
        lambda clips: _by(clips[_right(clips)], "margin", ascending=False),
    ),
    Selection(
        "farthest-wrong",
        "Wrong, farthest from the decision boundary",
        "that is classified wrongly by the largest margin",
        NO_WRONG,
        lambda clips: _by(clips[~_right(clips)], "margin", ascending=True),
    ),
)


def _by(clips: pd.DataFrame, column: str, *, ascending: bool) -> pd.DataFrame:
    """In this order; equals stay in that of their names."""
    return clips.sort_values(column, ascending=ascending, kind="stable")


def _right(clips: pd.DataFrame) -> "pd.Series[bool]":
    return clips["true"].eq(clips["predicted"])


@dataclass(frozen=True, eq=False)
class Scene:
    """What the figures of one corpus share.

    `clips` has a row per clip of the test split, as `sounds.judged` describes it; `shown` are the classes that have
    room.
    """

    number: int
    model: Model
    sounds: Sounds
    clips: pd.DataFrame
    shown: tuple[str, ...]

    def name(self, what: str) -> str:
        """The name of a figure."""
        return _name(what, self.model, self.number)

    @property
    def origin(self) -> str:
        """Where it all comes from, the end of every caption."""
        data, metrics = self.model.config["config"]["data"], self.model.metrics
        classes = self.clips["true"].nunique()
        room = f" Of {classes} classes the {len(self.shown)} with the most clips are shown."
        return (
            f"Corpus {sounds.corpus_name(data)}, task {data['task']}, split {SPLIT}, n = {len(self.clips):,} clips."
            f"{room if classes > len(self.shown) else ''} Model: {self.model.name} of {self.model.study}, the best on "
            f"tune (balanced accuracy {metrics['score']:.3f})."
        )


def items(studies: Studies) -> Iterator[Item]:
    """Waveforms and spectrograms, for the model that is best on tune of each corpus."""
    best: dict[str, Model] = {}
    for model in studies.models:
        data = model.config["config"]["data"]
        best.setdefault(repr(sorted((key, value) for key, value in data.items() if key != "corpus")), model)
    if not best:
        reason = "Recordings are shown as a model judges them, but no study has a scored model yet."
        yield Missing("recordings", "Recordings", reason)
    for number, model in enumerate(best.values(), start=1):
        try:
            scene = _scene(number, model)
        except UserError as error:
            corpus = sounds.corpus_name(model.config["config"]["data"])
            yield Missing(_name("recordings", model, number), f"Recordings of {corpus}", str(error))
        else:
            yield from _items(scene)


def _name(what: str, model: Model, number: int) -> str:
    data = model.config["config"]["data"]
    return style.file_name(what, sounds.corpus_name(data), data["task"], *([str(number)] if number > 1 else []))


def _scene(number: int, model: Model) -> Scene:
    found = sounds.open_sounds(model.config["config"]["data"], SPLIT)
    clips = sounds.judged(model.predictions, tuple(model.config["classes"]), SPLIT)
    known = clips[clips["name"].isin(list(found.rows))].reset_index(drop=True)
    if known.empty:
        corpus = model.config["config"]["data"]["corpus"]
        raise UserError(
            f"Waveforms need clips that the model was scored on, but none of the {len(clips):,} in its predictions is "
            f"in the {SPLIT} split of {corpus}. Score the model again."
        )
    counts = known["true"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return Scene(number, model, found, known, tuple(sorted(counts.index[:MOST_CLASSES])))


def _items(scene: Scene) -> Iterator[Item]:
    alone = scene.clips.iloc[[(len(scene.clips) - 1) // 2]]
    words = "The recording in the middle of all test clips, in the order of their names."
    yield _waveforms(scene, "waveform", "A waveform", words, alone, BINS_ALONE)
    typical = _first_of_each(scene, _middle(scene.clips))
    words = "A recording of each class: of its test clips in the order of their names the one in the middle."
    yield _waveforms(scene, "waveforms", "A waveform of each class", words, typical, BINS)
    yield _spectrograms(scene, typical)
    for selection in SELECTIONS:
        yield _selected(scene, selection)
    if len(scene.model.config["classes"]) < 2:
        reason = "A decision boundary needs two classes, but the model knows one."
        yield Missing(scene.name("boundary"), "Clips and the decision boundary", reason)
        return
    for selection in BOUNDARY:
        yield _selected(scene, selection)


def _middle(clips: pd.DataFrame) -> pd.DataFrame:
    """Of each class the clip in the middle."""
    classes = clips.groupby("true")["name"]
    return clips[classes.cumcount().eq((classes.transform("size") - 1) // 2)]


def _first_of_each(scene: Scene, clips: pd.DataFrame) -> pd.DataFrame:
    """The first clip of each class that is shown, in the classes' order."""
    firsts = clips[clips["true"].isin(scene.shown)].drop_duplicates("true")
    return firsts.sort_values("true", ignore_index=True)


def _selected(scene: Scene, selection: Selection) -> Item:
    chosen = _first_of_each(scene, selection.choose(scene.clips))
    if chosen.empty:
        none = selection.none
        if scene.clips["true"].nunique() > len(scene.shown):  # a class that is not shown may well have one
            none = f"Among the classes that are shown: {none[0].lower()}{none[1:]}"
        return Missing(scene.name(selection.what), selection.title, f"{none} {scene.origin}")
    words = f"Of each class the test clip {selection.which}."
    if selection in BOUNDARY:
        words += " The margin is the right class's probability less the highest other one; on the boundary it is 0."
    without = len(scene.shown) - len(chosen)
    if without:
        words += f" {without} of {len(scene.shown)} classes {'has' if without == 1 else 'have'} none."
    return _waveforms(scene, selection.what, selection.title, words, chosen, BINS)


def _waveforms(scene: Scene, what: str, title: str, words: str, clips: pd.DataFrame, bins: int) -> Clips:
    """Clips as waveforms that can be played, one panel each."""
    rate_hz = scene.sounds.rate_hz
    waves = [scene.sounds.wave(name) for name in clips["name"]]
    envelopes = [sounds.envelope(wave, rate_hz, bins) for wave in waves]
    rows = clips.rename(columns={"name": "clip"}).loc[np.repeat(clips.index, [len(piece) for piece in envelopes])]
    data = pd.concat([rows.reset_index(drop=True), pd.concat(envelopes, ignore_index=True)], axis=1)
    caption = (
        f"{words} Each panel has its own scale, on which 1 is full scale, and is drawn from the lowest and the highest "
        f"sample in each of at most {bins} equal stretches. {KEY} {scene.origin}"
    )
    played = tuple(_clip(row, wave, rate_hz) for row, wave in zip(clips.to_dict("records"), waves, strict=True))
    return Clips(Figure(scene.name(what), title, caption, data, draw_waveforms), played)


KEY = (
    "Above each stand its class with the probability that it got, the next likely class or, after an arrow, the wrong "
    "one for which it was taken, and the clip's name."
)


def _clip(row: Mapping[Any, Any], wave: sounds.Wave, rate_hz: int) -> Clip:
    """A recording to be played, with what the model makes of it."""
    if row["true"] == row["predicted"]:
        words = f"True and predicted class: {row['true']} ({row['p_true']:.3f})."
        words += f" Next: {row['other']} ({row['p_other']:.3f})." if row["other"] else ""
    else:
        words = (
            f"True class: {row['true']} ({row['p_true']:.3f}). "
            f"Predicted class: {row['predicted']} ({row['p_other']:.3f})."
        )
    words += f" Margin: {row['margin']:+.3f}."
    seconds = len(wave) / rate_hz
    if seconds > sounds.PLAYED_SECONDS:
        words += f" The first {sounds.PLAYED_SECONDS:g} of {seconds:.1f} s can be played."
    audio, media_type = sounds.encode(wave, rate_hz)
    return Clip(row["name"], words, audio, media_type)


def _spectrograms(scene: Scene, clips: pd.DataFrame) -> Figure:
    """Clips as spectrograms, one panel each; the data has a row per moment and a column per band."""
    tables = []
    for name, true in zip(clips["name"], clips["true"], strict=True):
        table = sounds.spectrogram(scene.sounds.wave(name), scene.sounds.rate_hz, MOMENTS)
        tables.append(table.reset_index().assign(clip=name, true=true))
    data = pd.concat(tables, ignore_index=True)
    data = data[["clip", "true", *data.columns.drop(["clip", "true"])]]
    caption = (
        f"Log spectrograms of the recordings above: frames of {sounds.FRAME} samples, one every {sounds.HOP}, at "
        f"{scene.sounds.rate_hz:,} Hz. Power is averaged to at most {sounds.BANDS} bands and {MOMENTS} moments, in "
        f"decibels, 0 being the highest of each clip. {scene.origin}"
    )
    return Figure(scene.name("spectrograms"), "A log spectrogram of each class", caption, data, draw_spectrograms)


def draw_waveforms(data: pd.DataFrame) -> Drawing:
    """A panel per clip, each with its own scale."""
    drawing, plot, places = _grid(data, left=0.55, right=0.15)
    for place in places:
        clip = place.rows.iloc[0]
        mark = "→" if clip["true"] != clip["predicted"] else "then"
        lines = [("", clip["true"], f" {clip['p_true']:.3f}"), ("", place.name, "")]
        if clip["other"]:
            lines.insert(1, (f"{mark} ", clip["other"], f" {clip['p_other']:.3f}"))
        _entitle(plot, place, lines)
        seconds, low, high = (place.rows[column].to_numpy(np.float64) for column in ("seconds", "low", "high"))
        length, most = _length(seconds), max(float(np.abs([low, high]).max()), 1e-6)
        low, high = (place.bottom + place.height * (0.5 + 0.5 * part / most) for part in (low, high))
        across = place.left + place.width * seconds / length
        plot.fill_between(across, low, high, color=_WAVE, linewidth=0.6)
        _scale(plot, place, length, [(0.0, f"−{most:.2g}"), (0.5, "0"), (1.0, f"{most:.2g}")])
    plot.text(0.05, drawing.get_figheight() / 2, "amplitude", fontsize=8, ha="left", va="center", rotation=90)
    return drawing


def draw_spectrograms(data: pd.DataFrame) -> Drawing:
    """A panel per clip, all with the same scale of colours."""
    drawing, plot, places = _grid(data, left=0.45, right=0.85)
    bands = data.columns.drop(["clip", "true", "seconds"])
    below, last = (float(centre_khz) for centre_khz in bands[-2:])
    top_khz = last + (last - below) / 2
    shades = Normalize(sounds.FLOOR_DB, 0)
    for place in places:
        _entitle(plot, place, [("", place.rows["true"].iloc[0], ""), ("", place.name, "")])
        right, top = place.left + place.width, place.bottom + place.height
        plot.imshow(
            place.rows[bands].to_numpy(np.float64).T,
            origin="lower", aspect="auto", extent=(place.left, right, place.bottom, top),
            cmap="magma", norm=shades, interpolation="nearest",
        )  # fmt: skip
        _scale(
            plot, place, _length(place.rows["seconds"].to_numpy()),
            [(khz / top_khz, f"{khz:g}") for khz in _ticks(top_khz)],
        )  # fmt: skip
    beside = drawing.add_axes((1 - 0.7 / style.WIDTH, 0.1, 0.12 / style.WIDTH, 0.8))
    drawing.colorbar(ScalarMappable(shades, "magma"), cax=beside).set_label(
        "dB, 0 being the clip's highest", fontsize=8
    )
    beside.tick_params(labelsize=TICK_SIZE)
    beside.grid(False)
    plot.text(0.05, drawing.get_figheight() / 2, "kHz", fontsize=8, ha="left", va="center", rotation=90)
    return drawing


@dataclass(frozen=True)
class Place:
    """A clip's panel, in inches from the lower left corner."""

    name: str
    rows: pd.DataFrame
    left: float
    bottom: float
    width: float
    height: float


def _grid(data: pd.DataFrame, left: float, right: float) -> tuple[Drawing, Axes, list[Place]]:
    """A panel for each clip in the data; `left` is the margin of each column, `right` that of the last, in inches."""
    clips = [(str(name), rows) for name, rows in data.groupby("clip", sort=False)]
    columns = min(COLUMNS, len(clips))
    lines = -(-len(clips) // columns)
    above, below, tall = 0.5, 0.25, 0.75 if len(clips) > 1 else 1.6
    wide = (style.WIDTH - right - left * columns) / columns
    height = lines * (above + tall + below) + 0.2
    drawing, plot = canvas(height)
    places = []
    for number, (name, rows) in enumerate(clips):
        line, column = divmod(number, columns)
        bottom = height - line * (above + tall + below) - above - tall
        places.append(Place(name, rows, left + column * (wide + left), bottom, wide, tall))
    plot.text(style.WIDTH / 2, 0.04, "seconds", fontsize=8, ha="center", va="bottom")
    return drawing, plot, places


def _scale(plot: Axes, place: Place, seconds: float, up: list[tuple[float, str]]) -> None:
    """A panel's two axes; `up` are labels with the shares of its height at which they stand."""
    left, bottom = place.left, place.bottom
    lines = [[(left, bottom), (left + place.width, bottom)], [(left, bottom), (left, bottom + place.height)]]
    for at in _ticks(seconds):
        across = left + place.width * at / seconds
        lines.append([(across, bottom), (across, bottom - 0.04)])
        plot.text(across, bottom - 0.06, f"{at:g}", fontsize=TICK_SIZE, ha="center", va="top")
    for share, label in up:
        along = bottom + place.height * share
        lines.append([(left, along), (left - 0.04, along)])
        plot.text(left - 0.06, along, label, fontsize=TICK_SIZE, ha="right", va="center")
    plot.add_collection(LineCollection(lines, colors=style.INK, linewidths=0.8))


def _ticks(end: float) -> list[float]:
    """A few round numbers from 0 to `end`."""
    return [float(at) for at in MaxNLocator(4).tick_values(0, end) if at <= end * (1 + 1e-9)]


def _entitle(plot: Axes, place: Place, lines: list[tuple[str, str, str]]) -> None:
    """Lines above a panel, no longer than it is wide: of each the middle part is shortened as need be."""
    text = "\n".join(_fitting(*line, room=72 * place.width) for line in lines)
    plot.text(place.left, place.bottom + place.height + 0.05, text, fontsize=TITLE_SIZE, ha="left", va="bottom")


def _fitting(before: str, label: str, after: str, room: float) -> str:
    """A line, its label shortened in the middle until all is at most `room` points wide."""
    kept, font = len(label), FontProperties(size=TITLE_SIZE)
    while True:
        short = label if kept == len(label) else f"{label[: kept // 2]}…{label[len(label) - kept + kept // 2 :]}"
        line = f"{before}{short}{after}"
        width = text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]
        if width <= room or kept <= 2:
            return line
        kept = max(2, min(kept - 1, int(kept * room / width)))


def _length(seconds: np.ndarray) -> float:
    """Where a row of equal stretches ends, from where they begin."""
    return float(seconds[-1]) * len(seconds) / (len(seconds) - 1) if len(seconds) > 1 else 1.0
