"""Trials of a second: an in-memory data set and a configuration to go with it, or with the tiny corpus."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables import corpora, data
from trainables.config import Augment, DataConfig, TrainingConfig, TrialConfig
from trainables.data import Part, TrialData
from trainables.features.waveform import Waveform
from trainables.models.recurrent import Config

CPU = torch.device("cpu")

TINY = TrialConfig(
    family="lstm",
    network="recurrent",
    data=DataConfig("demo", "0" * 64, "family", keep_synth_lead=False, split="official", split_seed=0),
    features=Waveform(seconds=0.25, pool=8, frame_ms=25, normalise="peak"),
    augment=Augment(),
    model=Config(bidirectional=False, widths=(6,), dense=(5,), dropout=0.0, readout="mean", convention="torch"),
    training=TrainingConfig(
        loss="ce",
        smoothing=0.1,
        optimiser="adam",
        learning_rate=0.02,
        momentum=0.0,
        adam_epsilon=1e-8,
        weight_decay=0.0,
        clip_norm=1.0,
        plateau_factor=1.0,
        plateau_patience=3,
        patience=0,
        body_rate_factor=1.0,
        batch_size=8,
        max_epochs=5,
    ),
    seed=3,
    threads=1,
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks wait for each other's threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., TrialConfig]:
    """A configuration; keywords replace fields of its model, its training or its own."""

    def make(**changes: Any) -> TrialConfig:
        model = {key: changes.pop(key) for key in list(changes) if key in TINY.model.__dataclass_fields__}
        training = {key: changes.pop(key) for key in list(changes) if key in TINY.training.__dataclass_fields__}
        return replace(TINY, model=replace(TINY.model, **model), training=replace(TINY.training, **training), **changes)

    return make


@pytest.fixture(scope="session")
def tiny_data() -> Callable[..., TrialData]:
    """Three classes of noisy frames `(clips, 4 steps, 3)`; 20 clips to train on, so the last batch is short."""

    def make(noise: float = 1.5, train: int = 20, tune: int = 13, seed: int = 0) -> TrialData:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(3, 4, 3))
        parts = {}
        for name, clips in (("train", train), ("tune", tune)):
            labels = rng.integers(0, 3, clips)
            inputs = (centres[labels] + noise * rng.normal(size=(clips, 4, 3))).astype(np.float32)
            parts[name] = Part.resident(torch.from_numpy(inputs), torch.from_numpy(labels))
        return TrialData(parts, (4, 3), 3, CPU)

    return make


@pytest.fixture
def corpus_config(tiny_corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataConfig]:
    """The tiny corpus as a configuration names it, decoded in a cache of the test run's own."""
    monkeypatch.setenv("ETUDE_CACHE", str(cache))
    spec = f"nsynth:{tiny_corpus}"
    digest = corpora.open_corpus(spec).digest
    yield DataConfig(spec, digest, "family", keep_synth_lead=False, split="official", split_seed=0)
    data.load.cache_clear()
    data._kept.clear()
