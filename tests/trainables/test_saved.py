"""A model's folder: enough to use it, the same answers as in the study, nothing run that lies in it."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from safetensors.numpy import load_file

from tests.analysis.models import KINDS, write_model
from tests.tiny import CLASSES, RATE_HZ
from trainables import corpora, data, saved
from trainables.corpora.audio import BadAudio
from trainables.corpora.store import Store
from trainables.features import vector
from trainables.features.vector import Fitted

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tiny_corpus: Path, cache: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETUDE_CACHE", str(cache))
        yield f"nsynth:{tiny_corpus}"
        data.load.cache_clear()
        data.fitted.cache_clear()
        data._kept.clear()


@pytest.fixture(scope="module")
def models(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: write_model(root / kind.replace(" ", "-"), kind, corpus) for kind in KINDS}


def stored(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "predictions.parquet").set_index("name")[[f"p_{name}" for name in CLASSES]]


def samples(store: Store, name: str) -> np.ndarray:
    clip = store.clips.set_index("name").loc[name]
    return store.samples[clip["offset"] : clip["offset"] + clip["samples"]]


# --- the same answers --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_of_the_corpus_gets_the_probabilities_of_the_study(
    kind: str, models: dict[str, Path], corpus: str, tiny_corpus: Path
) -> None:
    """From the store's samples, all at once, and from the file itself, alone."""
    model, wanted, store = saved.load(models[kind], CPU), stored(models[kind]), corpora.open_corpus(corpus)
    assert model.classes == CLASSES
    assert len(wanted) == 60
    found = model.chances([samples(store, name) for name in wanted.index])
    np.testing.assert_allclose(found, wanted.to_numpy(), atol=1e-5, rtol=0)
    assert wanted.to_numpy().std(axis=0).min() > 1e-4, "clips differ"
    for name in wanted.index[::9]:
        (file,) = tiny_corpus.rglob(f"{name}.wav")
        alone = model.chances([model.read(file).samples])[0]
        np.testing.assert_allclose(alone, wanted.loc[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["waveform", "segments", "picture", "vector"])
def test_clips_of_different_lengths_get_the_probabilities_of_the_study(kind: str, corpus: str, tmp_path: Path) -> None:
    """From less than an excerpt to several; a shorter one is padded, as in training."""
    rng = np.random.default_rng(0)
    for number, label in enumerate(CLASSES):
        for take in range(8):
            file = tmp_path / "clips" / label / f"{take}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            time = np.arange(2205 + 900 * take) / 22_050
            wave = np.sin(2 * np.pi * 200 * 3**number * time) + 0.1 * rng.standard_normal(len(time))
            soundfile.write(file, 0.1 * (1 + take) * wave, 22_050)
    folder = write_model(tmp_path / "model", kind, f"folder:{tmp_path / 'clips'}")
    model, wanted = saved.load(folder, CPU), stored(folder)
    assert len(wanted) == 24
    found = [model.chances([model.read(tmp_path / "clips" / f"{name}.wav").samples])[0] for name in wanted.index]
    np.testing.assert_allclose(np.stack(found), wanted.to_numpy(), atol=1e-5, rtol=0)


def test_descriptors_of_a_whole_corpus_give_the_same(models: dict[str, Path], corpus: str) -> None:
    model, store = saved.load(models["vector"], CPU), corpora.open_corpus(corpus)
    found = pd.DataFrame(model.chances_of_vectors(vector.table(store)), index=store.clips["name"])
    wanted = stored(models["vector"])
    np.testing.assert_allclose(found.loc[wanted.index], wanted.to_numpy(), atol=1e-5, rtol=0)


def test_the_time_to_answer_is_the_median_over_single_clips(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first clip, which pays for what is made once, is shown once more before."""
    model = saved.load(models["picture"], CPU)
    dataset = data.load(model.config.data)
    now, shown = [0.0], []
    lasting = iter([100.0, 1.0, 9.0, 2.0])

    def answer(self: object, clips: list[np.ndarray]) -> None:
        (clip,) = clips
        shown.append(clip)
        now[0] += next(lasting)
        if len(shown) == 2:
            raise BadAudio("not finite")

    monkeypatch.setattr(saved.SavedModel, "chances", answer)
    monkeypatch.setattr(saved.time, "perf_counter", lambda: now[0])
    assert saved.seconds_per_clip(model, dataset, clips=3) == 2.0
    rows = dataset.rows("test")[:3]
    for clip, name in zip(shown, dataset.store.clips["name"].iloc[[rows[0], *rows]], strict=True):
        np.testing.assert_array_equal(clip, samples(dataset.store, name))
        assert clip.dtype == np.int16


def test_the_time_to_answer_is_had_without_a_test_split(models: dict[str, Path]) -> None:
    model = saved.load(models["waveform"], CPU)
    dataset = data.load(model.config.data)
    rows = {name: rows[:0] if name == "test" else rows for name, rows in dataset.split.rows.items()}
    without = replace(dataset, split=replace(dataset.split, rows=rows))
    assert 0 < saved.seconds_per_clip(model, without, clips=3) < 60


def test_a_model_needs_no_corpus(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setattr(corpora, "open_corpus", None)
    for name, folder in models.items():
        alone = tmp_path / name / "elsewhere"
        alone.mkdir(parents=True)
        for file in ("model.safetensors", "config.json", "features.safetensors"):
            if (folder / file).exists():
                shutil.copy(folder / file, alone)
        wave = np.sin(np.arange(4000) / 9).astype(np.float32)
        found = saved.load(alone, CPU).probabilities(wave, RATE_HZ)
        assert found.shape == (3,)
        assert found.sum() == pytest.approx(1, abs=1e-5)
    assert not (tmp_path / "nothing").exists()


def test_what_the_folder_says_of_the_inputs(models: dict[str, Path]) -> None:
    record = json.loads((models["picture"] / "config.json").read_text())
    assert record["input_shape"] == [1, 16, 16]
    assert record["clip_seconds"] == 0.25
    assert record["sample_rate_hz"] == RATE_HZ
    assert record["layers"][0] == {
        "name": "layers.0",
        "kind": "Conv2d",
        "output_shape": [4, 16, 16],
        "parameters": 40,
        "trainable": 40,
    }
    weights = load_file(models["picture"] / "model.safetensors")
    buffers = sum(array.size for name, array in weights.items() if "running" in name or "num_batches" in name)
    assert sum(layer["parameters"] for layer in record["layers"]) == sum(a.size for a in weights.values()) - buffers
    assert not (models["picture"] / "features.safetensors").exists()
    assert (models["vector"] / "features.safetensors").exists()


def test_scaling_survives_its_file(models: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("vector", "plain vector"):
        first = Fitted.load(models[kind] / "features.safetensors")
        assert (first.components is None) == (kind == "plain vector")
        first.save(tmp_path / "again")
        second = Fitted.load(tmp_path / "again")
        assert second.to_json() == first.to_json()


# --- any rate, length and channels -------------------------------------------------------------


def test_channels_are_mixed_and_floats_are_taken_as_samples(models: dict[str, Path]) -> None:
    model = saved.load(models["waveform"], CPU)
    rng = np.random.default_rng(0)
    mono = rng.integers(-20_000, 20_000, 4000).astype(np.int16)
    wanted = model.probabilities(mono, RATE_HZ)
    left = rng.integers(-5_000, 5_000, 4000).astype(np.int16)
    for same in (mono[:, None], np.stack([mono, mono], 1), np.stack([mono - left, mono + left], 1), mono / 32768):
        np.testing.assert_allclose(model.probabilities(same, RATE_HZ), wanted, atol=1e-6)


def test_only_the_length_of_the_longest_clip_counts(models: dict[str, Path]) -> None:
    """A quarter of a second here; the resampler's edge lies beyond it."""
    rng = np.random.default_rng(0)
    for kind, rate in (("picture", RATE_HZ), ("segments", RATE_HZ), ("vector", RATE_HZ), ("picture", 44_100)):
        model = saved.load(models[kind], CPU)
        long = rng.integers(-20_000, 20_000, 3 * rate).astype(np.int16)
        whole = model.convert(long, rate)
        assert whole.cut and len(whole.samples) == 4000
        shorter = model.convert(long[: int(0.35 * rate)], rate)
        np.testing.assert_array_equal(shorter.samples, whole.samples)
        assert not model.convert(long[: rate // 4], rate).cut


def test_another_rate_gives_nearly_the_same_and_less_so_without_resampling(models: dict[str, Path]) -> None:
    model = saved.load(models["picture"], CPU)

    def tone(rate: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 700 * np.arange(rate // 4) / rate)

    wanted = model.probabilities(tone(RATE_HZ), RATE_HZ)
    right = abs(model.probabilities(tone(48_000), 48_000) - wanted).max()
    wrong = abs(model.probabilities(tone(48_000), RATE_HZ) - wanted).max()
    assert right < 0.1 * wrong


def test_files_of_other_formats_are_read(models: dict[str, Path], tmp_path: Path) -> None:
    model = saved.load(models["waveform"], CPU)
    wave = 0.5 * np.sin(np.arange(44_100) / 20)
    for name, options in {
        "a.flac": {},
        "a.ogg": {},
        "a.mp3": {},
        "a.aiff": {},
        "a.au": {},
        "a.wav": {"subtype": "PCM_24"},
    }.items():
        soundfile.write(tmp_path / name, np.stack([wave, wave], 1), 44_100, **options)
        decoded = model.read(tmp_path / name)
        assert "2 channels mixed to mono" in decoded.repairs
        assert len(decoded.samples) == 4000
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / name)
        if name != "a.mp3":  # which is known by its name only
            np.testing.assert_array_equal(model.read(tmp_path / "link").samples, decoded.samples)


@pytest.mark.parametrize(
    ("waveform", "words"),
    [
        (np.zeros(4000, np.int16), "silent"),
        (np.zeros(0, np.int16), "no samples"),
        (np.zeros((0, 2), np.float32), "no samples"),
        (np.array([0.5, np.nan] * 900), "not finite"),
        (np.array([0.5, -np.inf] * 900), "not finite"),
        (np.ones(159, np.int16), "too short: 159 samples at 16000 Hz, at least 160"),
    ],
)
def test_what_holds_no_sound_is_refused(waveform: np.ndarray, words: str, models: dict[str, Path]) -> None:
    with pytest.raises(BadAudio, match=words):
        saved.load(models["waveform"], CPU).probabilities(waveform, RATE_HZ)


def test_the_shortest_that_is_taken_has_probabilities(models: dict[str, Path]) -> None:
    for folder in models.values():
        found = saved.load(folder, CPU).probabilities(np.ones(160, np.int16), RATE_HZ)
        assert np.isfinite(found).all()
