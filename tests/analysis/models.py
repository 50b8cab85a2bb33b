"""Models of a second on the tiny corpus, saved as a study leaves them."""

from pathlib import Path
from typing import Any

import torch

from trainables import corpora, data, evaluate, loop, saved
from trainables.config import Augment, DataConfig, TrainingConfig, TrialConfig
from trainables.features.picture import Picture
from trainables.features.vector import Vector
from trainables.features.waveform import Waveform
from trainables.files import BEST_WEIGHTS, write_json
from trainables.models import cnn2d, mlp, recurrent
from trainables.scoring import summarise

RECURRENT = recurrent.Config(
    bidirectional=True, widths=(4,), dense=(5,), dropout=0.1, readout="final", convention="keras"
)
PICTURES = cnn2d.Config(channels=(4,), kernel=3, batch_norm=True, global_pool="max", head=(6,), dropout=0.1)
DENSE = mlp.Config(widths=(6,), activations=("tanh",), batch_norm=False, dropout=0.1)
PICTURE = Picture(
    excerpt="whole", seconds=0.0, frame_samples=512, hop_samples=128, frequency="mel", log=True, colour="none", size=16
)
KINDS: dict[str, dict[str, Any]] = {
    "waveform": {
        "network": "recurrent",
        "model": RECURRENT,
        "features": Waveform(seconds=0.2, pool=8, frame_ms=25, normalise="peak"),
    },
    "segments": {
        "network": "recurrent",
        "model": RECURRENT,
        "features": Waveform(seconds=0.1, pool=8, frame_ms=25, normalise="none", excerpt="segments"),
    },
    "picture": {"network": "cnn2d", "model": PICTURES, "features": PICTURE},
    "vector": {"network": "mlp", "model": DENSE, "features": Vector(statistics="mean+deviation", pca=0.9)},
    "plain vector": {"network": "mlp", "model": DENSE, "features": Vector(statistics="mean", pca=0.0)},
}
TRAINING = TrainingConfig(
    loss="ce",
    smoothing=0.0,
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
    max_epochs=2,
)


def configuration(kind: str, corpus: str) -> TrialConfig:
    """A small configuration of that kind on a corpus."""
    digest = corpora.open_corpus(corpus).digest
    split = corpora.splits_of(corpus)[0]
    of = DataConfig(corpus, digest, corpora.tasks(corpus)[0], keep_synth_lead=False, split=split, split_seed=0)
    return TrialConfig(family="toy", data=of, augment=Augment(), training=TRAINING, seed=3, threads=1, **KINDS[kind])


def train(folder: Path, kind: str, corpus: str) -> TrialConfig:
    """Trains such a model and writes its weights into `folder`."""
    config = configuration(kind, corpus)
    torch.set_num_threads(1)
    inputs = data.trial_data(config.data, config.features, torch.device("cpu"))
    for _ in loop.train(config, inputs, folder):
        pass
    return config


def write_model(folder: Path, kind: str, corpus: str) -> Path:
    """Trains such a model and writes its folder as `search.finish` does."""
    config = train(folder.with_name(f"{folder.name}-checkpoint"), kind, corpus)
    weights = folder.with_name(f"{folder.name}-checkpoint") / BEST_WEIGHTS
    saved.save(folder, config, weights)
    predictions = evaluate.predict(config, weights, ("train", "tune", "valid", "test"))
    predictions.to_parquet(folder / "predictions.parquet", index=False)
    write_json(folder / "metrics.json", {"trial": 0, "splits": summarise(predictions)})
    return folder
