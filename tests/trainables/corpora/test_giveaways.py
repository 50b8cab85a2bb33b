"""Recordings whose files tell their class."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from trainables.corpora import open_corpus
from trainables.corpora.giveaways import giveaways
from trainables.corpora.splits import split


def found(folder: Path, rates: dict[str, list[int]], channels: dict[str, int] | None = None) -> list[str]:
    """What is said of a corpus of so many noises of each class, at these rates in turn."""
    rng = np.random.default_rng(0)
    for label, of_class in rates.items():
        (folder / label).mkdir(parents=True)
        for take, rate in enumerate(of_class):
            samples = rng.integers(-9000, 9000, (rate // 10, (channels or {}).get(label, 1))).astype(np.int16)
            soundfile.write(folder / label / f"{take}.wav", samples, rate)
    store = open_corpus(f"folder:{folder}")
    return giveaways(store, split(store.clips, task="label", how="random", keep_synth_lead=False, seed=0))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))


def test_a_rate_or_channels_that_go_with_a_class_are_told(tmp_path: Path) -> None:
    kept, mixed = [22_050] * 20, [16_000] * 5 + [22_050] * 15
    assert found(tmp_path / "rates", {"wind": [16_000] * 20, "rain": mixed, "sea": kept}) == [
        "Warning: a recording's sample rate goes with its class: 20 of 20 recordings of 'wind' have 16000 Hz, 5 of 40 "
        "others. A model may learn that instead of the sound; record all classes alike."
    ]
    (stereo,) = found(tmp_path / "channels", {"wind": kept, "rain": kept}, {"rain": 2})
    assert "number of channels goes with its class: 20 of 20 recordings of 'rain' have 2 channel(s), 0 of 20" in stereo


@pytest.mark.parametrize(
    "rates",
    [
        {"wind": [22_050] * 12, "rain": [22_050] * 12},
        {"wind": [16_000] * 12, "rain": [16_000] * 12},
        {"wind": [16_000, 22_050] * 6, "rain": [22_050, 16_000] * 6},
        {"wind": [16_000] * 4, "rain": [22_050] * 3 + [16_000]},  # so few may be chance
    ],
)
def test_what_is_alike_or_may_be_chance_is_not(tmp_path: Path, rates: dict[str, list[int]]) -> None:
    assert found(tmp_path / "corpus", rates) == []
