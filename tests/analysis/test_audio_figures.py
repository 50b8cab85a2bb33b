"""Recordings in the report: found by content, measured and encoded as they are, chosen by hand-worked probabilities."""

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

from analysis import Studies, load_studies, sounds
from analysis.figures import Clips, Figure, Item, Missing, audio, style
from analysis.sounds import Sounds
from tests.analysis.made import make_study
from tests.tiny import RATE_HZ
from trainables import corpora
from trainables.corpora.store import Store
from trainables.errors import UserError

CLASSES = ("bass", "organ", "reed")

# Clip: probabilities of bass, organ and reed. Margins, in order: 0.92, 0.94, 0.10, -0.10; -0.96, 0.02, -0.97, 0.50;
# -0.20, -0.30, -0.35, -0.01.
CHANCES = {
    "bass_acoustic_010-043-100": (0.95, 0.03, 0.02),
    "bass_acoustic_010-048-100": (0.96, 0.02, 0.02),
    "bass_acoustic_011-043-100": (0.50, 0.40, 0.10),
    "bass_acoustic_011-048-100": (0.40, 0.50, 0.10),
    "organ_acoustic_010-043-100": (0.97, 0.01, 0.02),
    "organ_acoustic_010-048-100": (0.30, 0.36, 0.34),
    "organ_acoustic_011-043-100": (0.98, 0.01, 0.01),
    "organ_acoustic_011-048-100": (0.20, 0.70, 0.10),
    "reed_acoustic_010-043-100": (0.50, 0.20, 0.30),
    "reed_acoustic_010-048-100": (0.50, 0.30, 0.20),
    "reed_acoustic_011-043-100": (0.50, 0.35, 0.15),
    "reed_acoustic_011-048-100": (0.45, 0.11, 0.44),
}


def predictions(chances: dict[str, tuple[float, ...]], classes: tuple[str, ...] = CLASSES) -> pd.DataFrame:
    """As `trainables.evaluate.predict` gives them, with rows of another split that must not matter."""
    table = np.array(list(chances.values()), dtype=np.float32)
    frame = pd.DataFrame({"name": list(chances), "split": "test", "group": "g"})
    frame["true"] = [name.partition("_")[0] for name in chances]
    frame["predicted"] = [classes[place] for place in table.argmax(1)]
    frame = frame.assign(**{f"p_{name}": table[:, place] for place, name in enumerate(classes)})
    other = frame.assign(split="tune", name=[f"tune {name}" for name in chances])
    other[[f"p_{name}" for name in classes]] = 1 / len(classes)
    return pd.concat([other, frame.sample(frac=1, random_state=0)], ignore_index=True)


@pytest.fixture(scope="module")
def spec(tiny_corpus: Path) -> str:
    return f"nsynth:{tiny_corpus}"


@pytest.fixture
def data(spec: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tiny corpus, decoded, as a model's configuration names it."""
    monkeypatch.setenv("ETUDE_CACHE", str(cache))
    digest = corpora.open_corpus(spec).digest
    return {
        "corpus": spec, "digest": digest, "task": "family",
        "keep_synth_lead": False, "split": "official", "split_seed": 0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored study; what it predicts on which corpus is put in by `study`."""
    return make_study(tmp_path_factory.mktemp("audio") / "made", trials=2, max_epochs=2, baselines=False, clips=2)


@pytest.fixture
def study(made: Path, tmp_path: Path, data: dict[str, Any]) -> Callable[..., Path]:
    """A study whose best model predicts these chances on the tiny corpus, or as `changes` to the data say."""

    def make(
        chances: dict[str, tuple[float, ...]] = CHANCES,
        *,
        name: str = "mine",
        classes: tuple[str, ...] = CLASSES,
        score: float = 0.5,
        **changes: Any,
    ) -> Path:
        root = tmp_path / name
        (root / "best").mkdir(parents=True)
        for file in ("study.json", "trials.jsonl", "epochs.jsonl"):
            (root / file).write_bytes((made / file).read_bytes())
        metrics = json.loads((made / "best" / "metrics.json").read_text()) | {"score": score}
        config = {"config": {"family": "mlp", "data": data | changes}, "classes": list(classes)}
        predictions(chances, classes).to_parquet(root / "best" / "predictions.parquet")
        (root / "best" / "config.json").write_text(json.dumps(config))
        (root / "best" / "metrics.json").write_text(json.dumps(metrics))
        return root

    return make


def items(*roots: Path) -> dict[str, Item]:
    """What is shown, by the first part of its name."""
    found = list(audio.items(load_studies(*roots)))
    kinds = ("very-likely", "very-unlikely", *(choice.what for choice in audio.BOUNDARY), "boundary", "recordings")
    kinds += ("waveforms", "waveform", "spectrograms")
    names = [item.figure.name if isinstance(item, Clips) else item.name for item in found]
    assert len(set(names)) == len(names)
    return {
        next(kind for kind in kinds if name.startswith(kind)): item for name, item in zip(names, found, strict=True)
    }


def shown(item: Item) -> list[str]:
    """The clips of an item, in the order of its panels, which must be that of its players."""
    assert isinstance(item, Clips)
    names = list(dict.fromkeys(item.figure.data["clip"]))
    assert [clip.title for clip in item.clips] == names
    return names


def drawn(item: Item) -> tuple[list[str], bytes]:
    """The titles of a figure's panels, and the figure as SVG."""
    figure = item.figure if isinstance(item, Clips) else item
    assert isinstance(figure, Figure)
    with style.context():
        drawing = figure.draw(figure.data)
        texts = [text.get_text() for text in drawing.axes[0].texts]
        return [text for text in texts if "\n" in text], style.svg(drawing)


# Choosing


def test_the_most_extreme_clip_of_each_class_is_chosen(study: Callable[..., Path]) -> None:
    found = items(study())
    assert {key: shown(found[key]) for key in found if key != "spectrograms"} == {
        "waveform": ["organ_acoustic_010-048-100"],
        "waveforms": ["bass_acoustic_010-048-100", "organ_acoustic_010-048-100", "reed_acoustic_010-048-100"],
        "very-likely": ["bass_acoustic_010-048-100"],
        "very-unlikely": ["organ_acoustic_010-043-100"],  # the first of two equals
        "nearest-right": ["bass_acoustic_011-043-100", "organ_acoustic_010-048-100"],
        "nearest-wrong": ["bass_acoustic_011-048-100", "organ_acoustic_010-043-100", "reed_acoustic_011-048-100"],
        "farthest-right": ["bass_acoustic_010-048-100", "organ_acoustic_011-048-100"],
        "farthest-wrong": ["bass_acoustic_011-048-100", "organ_acoustic_011-043-100", "reed_acoustic_011-043-100"],
    }
    likely = found["very-likely"]
    assert isinstance(likely, Clips)
    assert "2 of 3 classes have none." in likely.figure.caption
    assert "split test, n = 12 clips" in likely.figure.caption


def test_each_clip_is_shown_with_its_probabilities_and_its_margin(study: Callable[..., Path]) -> None:
    found = items(study())["nearest-right"], items(study(name="again"))["farthest-wrong"]
    right, wrong = found
    assert isinstance(right, Clips)
    assert isinstance(wrong, Clips)
    assert right.clips[1].words == "True and predicted class: organ (0.360). Next: reed (0.340). Margin: +0.020."
    assert wrong.clips[2].words == "True class: reed (0.150). Predicted class: bass (0.500). Margin: -0.350."
    assert drawn(right)[0][1] == "organ 0.360\nthen reed 0.340\norgan_acoustic_010-048-100"
    assert drawn(wrong)[0][2] == "reed 0.150\n→ bass 0.500\nreed_acoustic_011-043-100"


def test_panels_stand_in_the_order_of_the_players_not_in_that_of_the_names(study: Callable[..., Path]) -> None:
    found = items(study())["waveforms"]
    assert isinstance(found, Clips)
    rows = [part for _, part in found.figure.data.groupby("clip")][::-1]
    with style.context():
        texts = [text.get_text() for text in audio.draw_waveforms(pd.concat(rows)).axes[0].texts]
    assert [text.split("\n")[-1] for text in texts if "\n" in text] == shown(found)[::-1]


def test_margins_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(5)
    chances = {f"{CLASSES[n % 3]}_{n:03d}": tuple(rng.dirichlet([0.5] * 3)) for n in range(50)}
    table = sounds.judged(predictions(chances), CLASSES, "test").set_index("name")
    assert len(table) == 50
    for name, row in table.iterrows():
        by_class = dict(zip(CLASSES, chances[str(name)], strict=True))
        right = by_class.pop(row["true"])
        assert row["p_true"] == pytest.approx(right, abs=1e-6)
        assert row["other"] == max(by_class, key=lambda label: by_class[label])
        assert row["margin"] == pytest.approx(right - max(by_class.values()), abs=1e-6)


def test_clips_without_numbers_are_left_out(study: Callable[..., Path]) -> None:
    chances = CHANCES | {"bass_acoustic_010-048-100": (float("nan"),) * 3}
    likely = items(study(chances))["very-likely"]
    assert shown(likely) == ["bass_acoustic_010-043-100"]
    assert isinstance(likely, Clips)
    assert "n = 11 clips" in likely.figure.caption


# What is drawn and played


def test_a_waveform_is_the_lowest_and_highest_of_the_file_s_samples(study: Callable[..., Path], spec: str) -> None:
    found = items(study())["waveform"]
    assert isinstance(found, Clips)
    name = "organ_acoustic_010-048-100"
    file, _ = soundfile.read(f"{spec.removeprefix('nsynth:')}/nsynth-test/audio/{name}.wav", dtype="float32")
    data = found.figure.data
    assert len(data) == audio.BINS_ALONE
    assert len(file) == 4000  # a quarter second: ten samples in each of 400 stretches
    assert_array_equal(data["low"], file.reshape(400, 10).min(1))
    assert_array_equal(data["high"], file.reshape(400, 10).max(1))
    assert_allclose(data["seconds"], np.arange(400) * 10 / RATE_HZ)

    played, rate_hz = soundfile.read(io.BytesIO(found.clips[0].audio), dtype="float32")
    assert rate_hz == RATE_HZ
    assert len(played) == len(file)
    assert np.corrcoef(played, file)[0, 1] > 0.99
    assert found.clips[0].media_type == "audio/mpeg"


def test_spectrograms_have_the_typical_clips_of_the_waveforms(study: Callable[..., Path]) -> None:
    found = items(study())
    figure = found["spectrograms"]
    assert isinstance(figure, Figure)
    assert list(dict.fromkeys(figure.data["clip"])) == shown(found["waveforms"])
    assert figure.data.shape == (3 * 8, 3 + sounds.BANDS)  # 1 + 4000 // 512 moments
    assert drawn(figure)[0] == [f"{name.partition('_')[0]}\n{name}" for name in shown(found["waveforms"])]


def test_equal_studies_give_equal_bytes(study: Callable[..., Path]) -> None:
    one, two = items(study()), items(study(name="other"))
    for key in ("waveforms", "very-likely"):
        first, second = one[key], two[key]
        assert isinstance(first, Clips)
        assert isinstance(second, Clips)
        assert first.clips == second.clips
        assert drawn(first) == drawn(second)
    assert drawn(one["spectrograms"]) == drawn(two["spectrograms"])


# Which model, which corpus


def test_the_best_model_on_tune_speaks_for_each_task_of_a_corpus(study: Callable[..., Path]) -> None:
    chances = dict.fromkeys(CHANCES, (0.8, 0.1, 0.1))
    roots = (
        study(name="low", score=0.4),
        study(chances, name="high", score=0.6),
        study(name="moved", corpus="nsynth:/x"),
    )
    found = items(*roots)
    assert shown(found["nearest-wrong"]) == ["organ_acoustic_010-043-100", "reed_acoustic_010-043-100"]
    likely = found["nearest-right"]
    assert isinstance(likely, Clips)
    assert "of high, the best on tune (balanced accuracy 0.600)" in likely.figure.caption

    reseeded = study(name="reseeded", split_seed=1)
    names = [
        item.figure.name if isinstance(item, Clips) else item.name
        for item in audio.items(load_studies(*roots, reseeded))
    ]
    assert len(names) == len(set(names)) == 18


# What is missing


def test_no_scored_model_leaves_a_sentence() -> None:
    assert list(audio.items(Studies(()))) == [
        Missing(
            "recordings",
            "Recordings",
            "Recordings are shown as a model judges them, but no study has a scored model yet.",
        )
    ]


def sentence(found: dict[str, Item], key: str = "recordings") -> str:
    item = found[key]
    assert isinstance(item, Missing)
    return item.reason


def test_another_content_of_the_corpus_leaves_a_sentence(study: Callable[..., Path], data: dict[str, Any]) -> None:
    found = items(study(digest="f" * 64))
    assert list(found) == ["recordings"]
    assert f"is another by now (digest {data['digest'][:12]}, was ffffffffffff)" in sentence(found)


def test_a_corpus_that_is_not_decoded_leaves_a_sentence_and_is_not_decoded(
    study: Callable[..., Path], spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = study()
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "empty"))
    found = items(root)
    assert list(found) == ["recordings"]
    assert f"open_corpus('{spec}')" in sentence(found)
    assert "decodes it." in sentence(found)
    generated = items(study(name="generated", corpus="demo"))
    assert "open_corpus('demo')" in sentence(generated)
    assert not (tmp_path / "empty").exists()


def test_a_corpus_that_is_gone_leaves_a_sentence_unless_its_content_is_in_the_cache(
    study: Callable[..., Path], tmp_path: Path
) -> None:
    gone = f"nsynth:{tmp_path / 'gone'}"
    assert "is not at hand." in sentence(items(study(corpus=gone, digest="f" * 64)))
    assert shown(items(study(name="moved", corpus=gone))["waveform"]) == ["organ_acoustic_010-048-100"]


def test_unknown_clips_leave_a_sentence(study: Callable[..., Path]) -> None:
    strange = {f"bass_{number}": (0.9, 0.1, 0.0) for number in range(4)}
    assert "none of the 4 in its predictions" in sentence(items(study(strange)))
    some = items(study(strange | CHANCES, name="some"))["waveform"]
    assert isinstance(some, Clips)
    assert "n = 12 clips" in some.figure.caption


def test_a_damaged_store_is_as_good_as_none(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path))
    root = corpora.open_corpus(data["corpus"]).root
    assert sounds.open_sounds(data, "test").store.root == root
    (root / "store.json").write_text("{}")
    with pytest.raises(UserError, match="is not in the cache"):
        sounds.open_sounds(data, "test")


def test_where_nothing_is_wrong_or_certain_there_are_sentences(study: Callable[..., Path]) -> None:
    right = {name: tuple(0.6 if name.startswith(label) else 0.2 for label in CLASSES) for name in CHANCES}
    found = items(study(right))
    assert sentence(found, "very-likely").startswith("In no clip did the right class get a probability above 0.9.")
    assert sentence(found, "very-unlikely").startswith("In no clip did the right class get a probability below 0.1.")
    assert sentence(found, "nearest-wrong").startswith("No clip is classified wrongly.")
    assert sentence(found, "farthest-wrong").startswith("No clip is classified wrongly.")
    wrong = {name: tuple(0.2 if name.startswith(label) else 0.4 for label in CLASSES) for name in CHANCES}
    found = items(study(wrong, name="wrong"))
    assert sentence(found, "nearest-right").startswith("No clip is classified rightly.")
    assert len(shown(found["nearest-wrong"])) == 3


def test_one_class_has_no_boundary(study: Callable[..., Path]) -> None:
    found = items(study({name: (1.0,) for name in CHANCES if name.startswith("bass")}, classes=("bass",)))
    assert list(found) == ["waveform", "waveforms", "spectrograms", "very-likely", "very-unlikely", "boundary"]
    likely = found["very-likely"]
    assert isinstance(likely, Clips)
    assert likely.clips[0].words == "True and predicted class: bass (1.000). Margin: +1.000."
    assert drawn(likely)[0] == ["bass 1.000\nbass_acoustic_010-043-100"]


# Many classes, odd names, long clips


def by_hand(root: Path, clips: dict[str, int], rate_hz: int) -> Sounds:
    """A store of noise: `clips` maps names to their numbers of samples."""
    lengths = list(clips.values())
    rng = np.random.default_rng(0)
    rng.integers(-20_000, 20_000, sum(lengths), dtype=np.int16).tofile(root / "samples.i16")
    offsets = np.cumsum([0, *lengths[:-1]])
    frame = pd.DataFrame({"name": list(clips), "split": "", "offset": offsets, "samples": lengths})
    empty = pd.DataFrame()
    store = Store(root, "0" * 64, "folder", rate_hz, 30.0, frame, empty, empty)
    return Sounds(store, {name: row for row, name in enumerate(clips)})


ODD = ("<b>", "a/b", "$x$", "0" * 60, "&amp;", "", "é")


def test_of_sixty_classes_the_twelve_with_most_clips_are_shown_whatever_they_are_called(
    study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = (*ODD, *(f"class {number:02d}" for number in range(53)))
    names = {f"{label}_{number} $y$ <i>{'z' * 50}": label for label in labels for number in range(2 + (label in ODD))}
    chances = {name: tuple(0.9 if other == label else 0.1 / 59 for other in labels) for name, label in names.items()}
    monkeypatch.setattr(sounds, "open_sounds", lambda data, part: by_hand(tmp_path, dict.fromkeys(names, 300), 8_000))
    unseen = next(name for name, label in names.items() if label == "class 52")
    chances[unseen] = (0.1, *(0.9 if label == "class 52" else 0.0 for label in labels[1:]))
    found = items(
        study({name: row[1:] + row[:1] if name != unseen else row for name, row in chances.items()}, classes=labels)
    )
    wrong = found["nearest-right"]
    assert isinstance(wrong, Missing)
    assert wrong.reason.startswith("Among the classes that are shown: no clip is classified rightly.")
    found = items(study(chances, name="right", classes=labels))
    shown_classes = [name.partition("_")[0] for name in shown(found["waveforms"])]
    assert shown_classes == sorted([*ODD, *(f"class {number:02d}" for number in range(5))])
    waveforms = found["waveforms"]
    assert isinstance(waveforms, Clips)
    assert "Of 60 classes the 12 with the most clips are shown." in waveforms.figure.caption
    titles, svg = drawn(waveforms)
    assert len(titles) == 12
    assert any("…" in title for title in titles)
    assert b"&lt;b&gt;" in svg
    assert len(drawn(found["spectrograms"])[0]) == 12


def test_of_long_clips_the_beginning_is_played(study: Callable[..., Path], tmp_path: Path, monkeypatch: Any) -> None:
    long = by_hand(tmp_path, dict.fromkeys(CHANCES, 6 * 8_000), 8_000)
    monkeypatch.setattr(sounds, "open_sounds", lambda data, part: long)
    found = items(study())["waveforms"]
    assert isinstance(found, Clips)
    assert found.clips[0].words.endswith("The first 5 of 6.0 s can be played.")
    assert soundfile.info(io.BytesIO(found.clips[0].audio)).frames == 5 * 8_000
    assert found.figure.data["seconds"].max() == pytest.approx(6 * (1 - 1 / audio.BINS))


# sounds


def test_a_random_split_s_clips_are_found(data: dict[str, Any]) -> None:
    """All 60 notes at random: 80, 10 and 10 % of the instruments of each class, and no note of another split."""
    store = corpora.open_corpus(data["corpus"])
    found = sounds.open_sounds(data | {"split": "random"}, "test")
    assert 0 < len(found.rows) < 30
    assert list(found.rows) == store.clips["name"].iloc[list(found.rows.values())].tolist()
    assert {name[-7:-4] for name in found.rows} - {"043", "048"}  # pitches of the corpus' own train or valid


def test_an_envelope_by_hand() -> None:
    wave = np.array([0.1, -0.2, 0.3, 0.0, -0.5, 0.4, 0.2], dtype=np.float32)
    table = sounds.envelope(wave, 10, 3)  # of 2, 2 and 3 samples
    assert_allclose(table["low"], [-0.2, 0.0, -0.5], rtol=1e-6)
    assert_allclose(table["high"], [0.1, 0.3, 0.4], rtol=1e-6)
    assert_allclose(table["seconds"], [0.0, 0.2, 0.4])
    few = sounds.envelope(wave, 10, 400)
    assert_array_equal(few["low"], wave)
    assert_array_equal(few["high"], wave)


def test_a_spectrogram_is_scipy_s() -> None:
    wave = np.random.default_rng(3).standard_normal(20_000).astype(np.float32)
    _, _, spectrum = scipy.signal.stft(wave, window="hann", nperseg=2048, noverlap=2048 - 512, padded=False)
    bands = (np.abs(spectrum[:-1]) ** 2).reshape(128, 8, -1).mean(1)
    expected = np.maximum(10 * np.log10(bands / bands.max()), -80)
    table = sounds.spectrogram(wave, 16_000, 1000)
    assert table.shape == (40, 128)
    assert_allclose(table.to_numpy().T, expected, atol=0.06)  # rounded to a tenth
    assert_allclose(table.index, np.arange(40) * 512 / 16_000)


def test_a_sine_stands_in_its_band() -> None:
    wave = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    table = sounds.spectrogram(wave, 16_000, 10)
    assert len(table) == 10
    assert set(table.iloc[1:-1].idxmax(axis=1)) == {"1.03125"}  # 1000 to 1062.5 Hz
    assert table.to_numpy().max() == 0
    assert table["6.03125"].iloc[3] == sounds.FLOOR_DB


@pytest.mark.parametrize("length", [1, 15, 511, 2048])
def test_the_shortest_clips_can_be_shown_and_played(length: int) -> None:
    wave = np.full(length, 0.25, dtype=np.float32)
    assert len(sounds.spectrogram(wave, 16_000, 128)) == 1 + length // 512
    data = sounds.envelope(wave, 16_000, 200).assign(
        clip="c", true="a", predicted="a", p_true=1.0, other="", p_other=0.0
    )
    with style.context():
        assert len(style.png(audio.draw_waveforms(data))) > 1000
    assert soundfile.info(io.BytesIO(sounds.encode(wave, 16_000)[0])).frames == length


@pytest.mark.parametrize(
    ("rate_hz", "expected_hz"), [(8_000, 8_000), (16_000, 16_000), (20_000, 22_050), (96_000, 48_000)]
)
def test_a_clip_is_as_long_and_as_loud_as_it_should_be(rate_hz: int, expected_hz: int) -> None:
    seconds = np.arange(2 * rate_hz) / rate_hz
    wave = (0.01 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    encoded, media_type = sounds.encode(wave, rate_hz)
    played, played_hz = soundfile.read(io.BytesIO(encoded))
    assert media_type == "audio/mpeg"
    assert played_hz == expected_hz
    assert len(played) == 2 * expected_hz
    spectrum = (
        np.abs(np.fft.rfft(played)) / expected_hz
    )  # of two seconds: a bin is half a hertz, a tone's its amplitude
    assert spectrum.argmax() == 2 * 440
    assert spectrum.max() == pytest.approx(0.9, abs=0.01)  # MP3 adds noise to the samples, so their peak may be higher
    assert sounds.encode(wave, rate_hz)[0] == encoded


def test_what_is_played_is_never_clipped() -> None:
    """Noise limited to +-1, whose peaks grow when MP3 drops its highest frequencies."""
    wave = np.sign(np.random.default_rng(0).standard_normal(2 * 22_050)).astype(np.float32)
    plain = io.BytesIO()
    soundfile.write(plain, wave * np.float32(0.9), 22_050, format="MP3")
    plain.seek(0)
    assert np.abs(soundfile.read(plain)[0]).max() > 1.2  # what would be played as it is
    played = soundfile.read(io.BytesIO(sounds.encode(wave, 22_050)[0]))[0]
    assert 0.8 < np.abs(played).max() <= 1


def test_a_cut_fades_out_and_nothing_else_does() -> None:
    wave = np.full(6 * 8_000, 0.5, dtype=np.float32) * np.resize([1, -1], 6 * 8_000).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:  # FLAC, so that every sample can be compared
        patch.setattr(soundfile, "available_formats", lambda: {"FLAC": ""})
        cut, media_type = sounds.encode(wave, 8_000)
        whole, _ = sounds.encode(wave[: 5 * 8_000], 8_000)
    assert media_type == "audio/flac"
    heard = np.abs(soundfile.read(io.BytesIO(cut))[0])
    assert len(heard) == 5 * 8_000
    assert_allclose(heard[:-400], 0.9, atol=1e-4)
    assert_allclose(heard[-400:], np.linspace(0.9, 0, 400), atol=1e-4)
    assert_allclose(np.abs(soundfile.read(io.BytesIO(whole))[0]), 0.9, atol=1e-4)


def test_ten_classes_of_four_seconds_fit_a_page() -> None:
    """One sample and seven figures of ten; noise is the worst that MP3 can meet. Base64 makes four bytes of three."""
    wave = np.random.default_rng(0).standard_normal(5 * 22_050).astype(np.float32)
    assert 71 * len(sounds.encode(wave, 22_050)[0]) * 4 / 3 < 6e6
    assert 85 * len(sounds.encode(wave, 22_050)[0]) * 4 / 3 < 12e6


@pytest.mark.parametrize("kind", ["waveforms", "spectrograms"])
def test_no_label_is_cut_off_or_runs_into_another(
    kind: str, study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tuple(f"{letter * 60}" for letter in "WMi0mzLQgjAB")
    names = {f"{label}_{'W' * 60}{number}": label for label in labels for number in range(2)}
    chances = {name: tuple(1.0 if other != label else 0.0 for other in labels) for name, label in names.items()}
    monkeypatch.setattr(
        sounds, "open_sounds", lambda data, part: by_hand(tmp_path, dict.fromkeys(names, 9_999), 44_100)
    )
    item = items(study(chances, classes=labels))[kind]
    figure = item.figure if isinstance(item, Clips) else item
    assert isinstance(figure, Figure)
    with style.context():
        drawing = figure.draw(figure.data)
        drawing.draw_without_rendering()
        plot, *beside = drawing.axes
        texts = [*plot.texts, *(text for bar in beside for text in (*bar.get_yticklabels(), bar.yaxis.label))]
        boxes = [text.get_window_extent() for text in texts]
        edge = drawing.bbox
    assert len(boxes) > 80
    cut_off = [box for box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > edge.x1 or box.y1 > edge.y1]
    assert cut_off == []
    assert [(one, two) for one, two in itertools.combinations(boxes, 2) if one.overlaps(two)] == []


def test_a_title_keeps_both_ends_of_a_name() -> None:
    assert audio._fitting("→ ", "bass", " 0.5", room=200) == "→ bass 0.5"
    short = audio._fitting("→ ", "class number " * 9 + "17", " 0.5", room=100)
    assert short.startswith("→ class ")
    assert short.endswith("17 0.5")
    assert short.count("…") == 1
    assert audio._fitting("", "abcdef", "", room=1) == "a…f"
