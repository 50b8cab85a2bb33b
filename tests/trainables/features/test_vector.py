"""Hand-crafted descriptors against librosa's own functions, scaling and projection against scikit-learn's."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import soundfile

from trainables import corpora
from trainables.corpora.store import Store
from trainables.errors import UserError
from trainables.features import descriptors, from_json, vector
from trainables.features.vector import Fitted, Vector, fit, names, table

Floats = npt.NDArray[np.float32]
ROOT = Path(__file__).parents[3]
NOTE_SECONDS, SONG_SECONDS = 4.0, 30.0


def clip(seconds: float, rate_hz: int = 16_000, seed: int = 0) -> Floats:
    """A chord whose loudness swells and fades twice a second, in noise, with a silence; it begins below 0."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    tones = sum(np.sin(2 * np.pi * pitch * t) / n for n, pitch in enumerate((220.0, 277.2, 1318.5), start=1))
    sound = 0.3 * tones * np.sin(2 * np.pi * t) ** 4 + 0.01 * rng.normal(size=len(t))
    sound[int(0.6 * len(t)) : int(0.7 * len(t))] = 0
    sound[:50] = -0.1
    return sound.astype(np.float32)


def clicks(bpm: float, seconds: float, rate_hz: int = 16_000) -> Floats:
    """A short burst of noise on every beat."""
    sound = np.zeros(int(seconds * rate_hz), dtype=np.float32)
    burst = np.random.default_rng(0).uniform(-0.5, 0.5, rate_hz // 50).astype(np.float32)
    for beat in range(ceil(seconds * bpm / 60)):
        start = int(beat * 60 / bpm * rate_hz)
        sound[start : start + len(burst)] = burst[: len(sound) - start]
    return sound


def by_librosa(waveform: Floats, rate_hz: int, lowest_contrast_hz: float = 200.0) -> dict[str, Floats]:
    """Every descriptor by librosa's own function, each from the waveform."""
    import librosa

    f = librosa.feature
    both: dict[str, Any] = {"y": waveform, "sr": rate_hz}
    return {
        "mfcc": f.mfcc(**both),
        "chroma": f.chroma_stft(**both, tuning=0.0),
        "centroid": f.spectral_centroid(**both),
        "bandwidth": f.spectral_bandwidth(**both),
        "rolloff": f.spectral_rolloff(**both),
        "contrast": f.spectral_contrast(**both, fmin=lowest_contrast_hz),
        "flatness": f.spectral_flatness(y=waveform),
        "zero_crossing_rate": f.zero_crossing_rate(waveform),
        "onset_strength": librosa.onset.onset_strength(**both)[np.newaxis],
    }


@pytest.fixture
def store(tiny_corpus: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The tiny corpus; features are kept in a cache of the test's own."""
    monkeypatch.setenv("ETUDE_CACHE", str(cache))
    opened = corpora.open_corpus(f"nsynth:{tiny_corpus}")
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path))
    return opened


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of all clips that have been described in this process."""
    lengths: list[int] = []

    def counting(waveform: Floats, rate_hz: int, rhythm: bool) -> Floats:
        lengths.append(len(waveform))
        return np.full(len(names(9.0 if rhythm else 1.0)), np.float32(waveform.std()))

    monkeypatch.setattr(descriptors, "describe", counting)
    return lengths


def only_table(folder: Path) -> Path:
    (path,) = (folder / "features").glob("*.table")
    return path


# What librosa says


@pytest.mark.parametrize("block_frames", [256, 7])
@pytest.mark.parametrize(
    ("seconds", "rate_hz", "lowest_contrast_hz"),
    [(2.0, 16_000, 200.0), (1.3, 22_050, 200.0), (2.0, 8_000, 62.5), (1.0, 12_800, 100.0), (0.128, 16_000, 200.0)],
)
def test_every_descriptor_is_librosas(
    seconds: float, rate_hz: int, lowest_contrast_hz: float, block_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "BLOCK_FRAMES", block_frames)
    waveform = clip(seconds, rate_hz)
    expected = by_librosa(waveform, rate_hz, lowest_contrast_hz)
    found = descriptors.over_time(waveform, rate_hz, rhythm=True)
    first = 0
    for name, rows in expected.items():
        scale = np.abs(rows).max()
        np.testing.assert_allclose(found[first : first + len(rows)], rows, atol=2e-5 * scale, err_msg=name)
        first += len(rows)
    assert first == len(found)


@pytest.mark.parametrize("seconds", [NOTE_SECONDS, SONG_SECONDS])
def test_a_vector_holds_means_then_deviations_then_the_tempo(seconds: float) -> None:
    waveform, rhythm = clip(6.0), seconds == SONG_SECONDS
    found = dict(zip(names(seconds), descriptors.describe(waveform, 16_000, rhythm), strict=True))
    expected = by_librosa(waveform, 16_000)
    if rhythm:
        assert list(found)[-1] == "tempo"
        del found["tempo"]
    else:
        del expected["onset_strength"]
    rows = {
        f"{name}_{n}" if len(values) > 1 else name: row
        for name, values in expected.items()
        for n, row in enumerate(values)
    }
    assert list(found) == [f"{name}_{kind}" for kind in ("mean", "deviation") for name in rows]
    for name, row in rows.items():
        assert found[f"{name}_mean"] == pytest.approx(row.mean(dtype=float), rel=1e-4, abs=1e-4), name
        assert found[f"{name}_deviation"] == pytest.approx(row.std(dtype=float), rel=1e-3, abs=1e-4), name


def test_names_tell_single_notes_from_clips_with_rhythm() -> None:
    notes, songs = names(NOTE_SECONDS), names(SONG_SECONDS)
    assert (len(notes), len(songs)) == (88, 91)
    assert len(set(songs)) == 91
    assert set(songs) - set(notes) == {"onset_strength_mean", "onset_strength_deviation", "tempo"}
    assert [name for name in songs if name in notes] == list(notes)
    assert (notes[0], notes[19], notes[20], notes[43], notes[44]) == (
        *("mfcc_0_mean", "mfcc_19_mean", "chroma_0_mean"),
        *("zero_crossing_rate_mean", "mfcc_0_deviation"),
    )
    assert names(4.999) == notes
    assert names(5.0) == songs


@pytest.mark.parametrize("bpm", [75.0, 100.0, 140.0])
def test_the_tempo_of_clicks_is_theirs(bpm: float) -> None:
    found = descriptors.describe(clicks(bpm, 12.0), 16_000, rhythm=True)[-1]
    assert found == pytest.approx(bpm, rel=0.04)  # the lags of frames are some 3 % apart


@pytest.mark.parametrize("rate_hz", [16_000, 12_000])  # windows of 250 and 187 frames
@pytest.mark.parametrize("block_frames", [256, 40, 7])
def test_the_tempo_is_librosas_block_by_block(rate_hz: int, block_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import librosa

    monkeypatch.setattr(descriptors, "BLOCK_FRAMES", block_frames)
    for seed in range(5):
        strength = np.random.default_rng(seed).exponential(size=160).astype(np.float32)
        window = int(librosa.time_to_frames(8.0, sr=rate_hz))
        whole = librosa.feature.tempogram(onset_envelope=strength, sr=rate_hz, win_length=window)
        found = descriptors.mean_tempogram(strength, rate_hz)
        np.testing.assert_allclose(found[:, 0], whole.mean(axis=1), rtol=1e-4)
        expected = librosa.feature.tempo(onset_envelope=strength, sr=rate_hz)[0]
        assert descriptors.tempo(strength, 5.0, rate_hz) == expected
        assert descriptors.tempo(strength, 4.9, rate_hz) == 120.0


@pytest.mark.parametrize("rate_hz", [1_000, 8_000, 12_800, 12_801, 16_000, 96_000, 400_000])
@pytest.mark.parametrize("samples", [1, 2, 511, 512, 2047, 2048, 2049])
def test_no_clip_is_too_short_or_too_dull(samples: int, rate_hz: int) -> None:
    alternating = np.where(np.arange(samples) % 2, 1.0, -1.0)
    for waveform in (np.zeros(samples), np.full(samples, 0.5), np.full(samples, -1.0), alternating):
        found = descriptors.describe(waveform.astype(np.float32), rate_hz, rhythm=True)
        assert found.dtype == np.float32
        assert found.shape == (91,)
        assert np.isfinite(found).all()


def test_silence_is_known_in_every_descriptor() -> None:
    found = dict(zip(names(30.0), descriptors.describe(np.zeros(96_000, np.float32), 16_000, True), strict=True))
    expected = dict.fromkeys(names(30.0), 0.0)
    expected |= {"mfcc_0_mean": -100.0 * np.sqrt(128), "flatness_mean": 1.0, "tempo": found["tempo"]}
    assert found == pytest.approx(expected, abs=1e-3)
    assert found["tempo"] == pytest.approx(120.0, rel=0.03)  # librosa's expectation


def test_a_clip_counts_for_its_true_length() -> None:
    """Not for that of the longest one: zeros after the end change nearly everything."""
    waveform = clip(1.0)[:14_000]
    padded = np.concatenate([waveform, np.zeros(16_000, np.float32)])
    short, long = (descriptors.describe(each, 16_000, rhythm=False) for each in (waveform, padded))
    assert (np.abs(short - long) > 1e-4 * np.abs(short)).mean() > 0.9


# What a trial uses


def test_the_columns_of_the_statistics() -> None:
    for seconds, means in ((NOTE_SECONDS, 44), (SONG_SECONDS, 46)):
        every = names(seconds)
        mean, both = Vector("mean", 0.95), Vector("mean+deviation", 0.95)
        chosen = [every[n] for n in mean.columns(every)]
        assert chosen == [name for name in every if name.endswith("_mean") or name == "tempo"]
        assert both.columns(every).tolist() == list(range(len(every)))
        assert (mean.shape(16_000, seconds), both.shape(16_000, seconds)) == ((means,), (len(every),))
        assert (mean.stored_bytes(16_000, seconds), both.stored_bytes(16_000, seconds)) == (4 * means, 4 * len(every))


def test_a_vector_survives_json_and_is_made_by_the_table_alone() -> None:
    import torch

    how = Vector("mean", 0.95)
    assert from_json(json.loads(json.dumps(asdict(how)))) == how
    kept = torch.rand(3, 5)
    assert how.present(kept) is kept
    with pytest.raises(NotImplementedError, match=r"made by table\(\) and fit\(\)"):
        how.prepare(torch.zeros(1, 100), 16_000)


def correlated(clips: int, columns: int = 12, seed: int = 0) -> Floats:
    """Columns of different scale and place, most of whose variance lies in a few directions."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(clips, columns)) * 0.6 ** np.arange(columns) @ rng.normal(size=(columns, columns))
    return ((values + np.linspace(-20, 50, columns)) * 10.0 ** np.linspace(-3, 3, columns)).astype(np.float32)


@pytest.mark.parametrize("clips", [60, 7])  # fewer than columns, too
@pytest.mark.parametrize("share", [0.5, 0.95, 0.999])
def test_scaling_and_projection_are_scikit_learns(clips: int, share: float) -> None:
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    train, others = correlated(clips), correlated(20, seed=1)
    scaler = StandardScaler().fit(train.astype(float))
    oracle = PCA(n_components=share, svd_solver="full").fit(scaler.transform(train.astype(float)))
    plain, projected = fit(train, 0), fit(train, share)
    assert (plain.kept, plain.components) == (12, None)
    assert projected.kept == oracle.n_components_
    for values in (train, others):
        scaled = scaler.transform(values.astype(float))
        np.testing.assert_allclose(plain.apply(values), scaled, atol=1e-4)
        found = projected.apply(values)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, oracle.transform(scaled), atol=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])
def test_the_share_is_explained_with_not_one_component_more_than_it_takes(share: float) -> None:
    train = correlated(200)
    whole, kept = fit(train, 0).apply(train).var(axis=0).sum(), fit(train, share).apply(train).var(axis=0)
    assert kept.sum() >= share * whole
    assert kept[:-1].sum() < share * whole
    assert (np.diff(kept) < 0).all()


@pytest.mark.parametrize("share", [0, 0.9])
def test_constant_columns_have_no_part(share: float) -> None:
    train = correlated(30)
    train[:, 4] = 6400.1  # whose mean over 30 clips is not quite itself
    fitted = fit(train, share)
    assert fitted.scale[4] == 1.0
    assert fitted.mean[4] == np.float32(6400.1)
    if share:
        assert fitted.components is not None
        assert np.abs(fitted.components[:, 4]).max() < 1e-12
    else:
        assert (fitted.apply(train)[:, 4] == 0).all()


@pytest.mark.parametrize("train", [correlated(1), np.full((9, 12), 0.1, np.float32)], ids=["one clip", "equal clips"])
def test_without_any_variance_there_is_still_an_input(train: Floats) -> None:
    fitted = fit(train, 0.95)
    assert fitted.kept == 1
    assert fitted.apply(train).tolist() == [[0.0]] * len(train)
    assert fit(train, 0).apply(train).tolist() == [[0.0] * 12] * len(train)


def test_what_was_fitted_survives_json_exactly() -> None:
    train = correlated(40)
    for share in (0, 0.9):
        fitted = fit(train, share)
        record = json.loads(json.dumps(fitted.to_json()))
        back = Fitted(
            **{name: None if value is None else np.array(value, np.float32) for name, value in record.items()}
        )
        assert back.kept == fitted.kept
        assert back.apply(train).dtype == np.float32
        np.testing.assert_array_equal(back.apply(train), fitted.apply(train))


# The table of a corpus


def test_a_table_has_every_clip_in_its_place(store: Store) -> None:
    """Clips lie in the file in another order than in the table of clips."""
    object.__setattr__(store, "clips", store.clips.iloc[::-1])
    found = table(store)
    assert found.shape == (60, 88)
    assert found.dtype == np.float32
    for row in (0, 17, 59):
        waveform = store.waveforms(np.array([row]), 0.25)[0]
        np.testing.assert_array_equal(found[row], descriptors.describe(waveform, 16_000, rhythm=False))


def test_a_corpus_with_one_long_clip_has_rhythm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    for label, seconds in (("a", 0.5), ("a", 8.0), ("b", 0.01), ("b", 1.0), ("b", 0.7)):
        path = tmp_path / "corpus" / label / f"{seconds}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, clicks(100.0, seconds), 16_000, subtype="PCM_16")
    opened = corpora.open_corpus(f"folder:{tmp_path / 'corpus'}")
    found = table(opened)
    assert found.shape == (5, len(names(8.0)))
    assert np.isfinite(found).all()
    tempo = dict(zip(opened.clips["samples"] / opened.sample_rate_hz, found[:, -1], strict=True))
    assert tempo.pop(8.0) == pytest.approx(100.0, rel=0.04)
    assert set(tempo.values()) == {120.0}


def test_a_table_is_computed_once(store: Store, described: list[int], tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    first = table(store, lambda *event: said.append(event))
    assert described == [4000] * 60
    assert (said[0], said[-1]) == (("computing features", 0, 60), ("computing features", 60, 60))
    again = table(store, lambda *event: said.append(event))
    assert len(described) == 60
    assert len(said) == 2
    np.testing.assert_array_equal(first, again)
    assert {path.suffix for path in (tmp_path / "features").iterdir()} == {".table", ".lock"}


@pytest.mark.slow
def test_a_table_on_the_disk_is_read_without_librosa(store: Store) -> None:
    table(store)
    code = (
        "import sys; from pathlib import Path\n"
        "from trainables.corpora.store import load_store; from trainables.features.vector import table\n"
        f"print(table(load_store(Path({str(store.root)!r}))).shape, 'librosa' in sys.modules, 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(60, 88) False False"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "longer"])
def test_a_damaged_table_is_computed_anew(store: Store, described: list[int], tmp_path: Path, damage: str) -> None:
    first = np.array(table(store))
    path = only_table(tmp_path)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    spoilt = {"cut": content[:-4], "flipped": content, "empty": b"", "longer": path.read_bytes() + b"\0" * 4}
    path.write_bytes(spoilt[damage])
    np.testing.assert_array_equal(table(store), first)
    assert len(described) == 120
    table(store)
    assert len(described) == 120


@pytest.mark.parametrize("change", ["content", "format", "librosa", "hop"])
def test_a_table_belongs_to_content_and_settings(
    store: Store, described: list[int], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    table(store)
    if change == "content":
        object.__setattr__(store, "digest", "f" * 64)
    elif change == "librosa":
        monkeypatch.setattr(vector, "version", lambda package: "0.99.0")
    else:
        monkeypatch.setattr(vector, {"format": "_FORMAT", "hop": "HOP_SAMPLES"}[change], 99)
    table(store)
    assert len(described) == 120


def test_an_interrupted_table_goes_on_where_it_stopped(
    store: Store, described: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vector, "_CHUNK_SECONDS", 2.5)  # ten notes of a quarter second

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table(store, interrupt)
    assert len(described) == 30
    (partial,) = (tmp_path / "features").glob("*.partial")
    assert {path.name for path in partial.iterdir()} == {"0.table", "10.table", "20.table"}
    (partial / "10.table").write_bytes(b"damaged")

    said: list[int] = []
    found = table(store, lambda stage, done, total: said.append(done))
    assert said == [20, 30, 40, 50, 60]
    assert len(described) == 70
    assert not partial.exists()
    expected = [store.waveforms(np.array([row]), 0.25)[0].std() for row in range(60)]
    np.testing.assert_array_equal(found[:, 0], np.array(expected, np.float32))


def test_finished_parts_of_another_size_are_not_used(
    store: Store, described: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector, "_CHUNK_SECONDS", 2.5)

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table(store, interrupt)
    monkeypatch.setattr(vector, "_CHUNK_SECONDS", 5.0)
    assert table(store).shape == (60, 88)
    assert len(described) == 70


@pytest.mark.parametrize("fault", ["error", "not a number"])
def test_a_clip_that_librosa_fails_on_is_named(store: Store, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    import librosa

    bad = store.waveforms(np.array([17]), 0.25)[0]

    def failing(waveform: Floats, rate_hz: int, rhythm: bool) -> Floats:
        found = np.zeros(88, np.float32)
        if np.array_equal(waveform, bad):
            if fault == "error":
                raise librosa.ParameterError("it sounds bad")
            found[3] = np.nan
        return found

    monkeypatch.setattr(descriptors, "describe", failing)
    reason = {"error": r"ParameterError: it sounds bad", "not a number": "descriptors that are no numbers"}[fault]
    path = store.clips["path"].iloc[17]
    with pytest.raises(UserError, match=rf"librosa fails on {path} \({reason}\)"):
        table(store)


def test_a_cache_that_cannot_be_written_is_named(store: Store, described: list[int], tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"Features must be kept in .*features, but .* move the cache with ETUDE_CACHE"):
        table(store)


@pytest.mark.slow
def test_two_processes_compute_one_table(store: Store, tmp_path: Path) -> None:
    code = (
        "import hashlib; from pathlib import Path\n"
        "from trainables.corpora.store import load_store; from trainables.features.vector import table\n"
        "said = set()\n"
        f"found = table(load_store(Path({str(store.root)!r})), lambda stage, done, total: said.add(stage))\n"
        "print(hashlib.sha256(found.tobytes()).hexdigest(), 'computing features' in said)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0][0] == said[1][0]
    assert sorted(computed for _, computed in said) == ["False", "True"]


@pytest.mark.slow
def test_processes_find_what_one_finds(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone = np.array(table(store))
    only_table(tmp_path).unlink()
    monkeypatch.setattr(vector, "_ALONE_SECONDS", 0.0)
    monkeypatch.setattr(vector, "_CHUNK_SECONDS", 1.0)
    in_parent: list[Any] = []
    describe = descriptors.describe
    monkeypatch.setattr(descriptors, "describe", lambda *args: in_parent.append(args) or describe(*args))
    np.testing.assert_array_equal(table(store), alone)
    assert in_parent == []
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(store: Store, tmp_path: Path) -> None:
    """Even where that is killed, as Ray kills a trial's worker."""
    code = (
        "from pathlib import Path; from trainables.features import vector\n"
        "from trainables.corpora.store import load_store\n"
        "def wait(stage, done, total):\n"
        "    if done: print('working', flush=True); input()\n"
        "if __name__ == '__main__':\n"
        "    vector._ALONE_SECONDS, vector._CHUNK_SECONDS = 0.0, 1.0\n"
        f"    vector.table(load_store(Path({str(store.root)!r})), wait)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "working\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=30)
    for child in alive:
        child.kill()
    parent.communicate(timeout=30)
    assert alive == []
