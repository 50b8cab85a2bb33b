"""The main command on other corpora than notes: clips by genre, a table with speakers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from tests.conftest import ROOT

RATE_HZ = 22_050
LIMIT_SECONDS = 240

pytestmark = pytest.mark.slow


def write_clip(path: Path, kind: int, number: int, seconds: float) -> None:
    """A low, a middle or a high tone in some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([kind, number])
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * (110, 440, 1760)[kind] * (1 + 0.01 * number) * time)
    soundfile.write(path, tone + 0.02 * rng.standard_normal(len(time)), RATE_HZ, subtype="PCM_16")


def run(cache: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "search/run.py", "--concurrency", "1", *arguments],
        cwd=ROOT,
        env={**os.environ, "ETUDE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def test_genres_with_unlabelled_clips_end_in_a_submission(tmp_path: Path, cache: Path) -> None:
    genres = ("blues", "jazz", "rock")
    for kind, genre in enumerate(genres):
        for number in range(14):
            write_clip(tmp_path / "gtzan" / genre / f"{genre}.{number:05d}.wav", kind, number, 1.0 + 0.02 * number)
    for number in range(6):
        write_clip(tmp_path / "gtzan" / "test" / f"clip {number}.wav", number % 3, 100 + number, 1.0)
    (tmp_path / "gtzan" / "jazz" / "jazz.00054.wav").write_bytes(b"RIFF" + b"\0" * 40)
    place = ("--data", f"gtzan:{tmp_path / 'gtzan'}", "--storage", str(tmp_path / "studies"), "--name", "study")
    found = run(cache, "--baseline", "mlp-genre-ce", *place)
    assert found.returncode == 0, found.stderr
    study = tmp_path / "studies" / "study"
    metrics = json.loads((study / "best" / "metrics.json").read_text())
    assert metrics["splits"]["test"]["balanced_accuracy"] > 0.6, "three tones are easily told apart"
    submission = pd.read_csv(study / "best" / "submission.csv")
    assert submission["id"].tolist() == [f"test/clip {number}" for number in range(6)]
    assert set(submission["label"]) <= set(genres)
    assert (submission["label"] == [genres[number % 3] for number in range(6)]).mean() > 0.6
    assert "jazz.00054" in (study / "quarantine.csv").read_text()
    predictions = pd.read_parquet(study / "best" / "predictions.parquet")
    assert set(predictions["split"]) == {"tune", "valid", "test"}


def test_a_table_with_speakers_in_segments(tmp_path: Path, cache: Path) -> None:
    """Speakers stay on one side, segments are averaged per clip, and the model can be trained again."""
    rows = []
    for kind, label in enumerate(("low", "middle", "high")):
        for speaker in range(6):
            for take in range(2):
                path = Path("audio") / f"{label}-{speaker}-{take}.flac"
                write_clip(tmp_path / path, kind, 10 * speaker + take, 2.5)
                rows.append({"path": str(path), "label": label, "group": f"speaker {speaker} {label}"})
    pd.DataFrame(rows).to_csv(tmp_path / "takes.csv", index=False)
    wishes = ("excerpt=segments", "seconds=1", "picture_size=32", "conv_layers=2", "batch_size=32")
    place = ("--data", f"csv:{tmp_path / 'takes.csv'}", "--storage", str(tmp_path / "studies"), "--name", "study")
    small = ("--space", "cnn2d", "--trials", "1", "--max-epochs", "2", "--no-baselines")
    found = run(cache, *small, *place, *(part for wish in wishes for part in ("--fix", wish)))
    assert found.returncode == 0, found.stderr
    study = tmp_path / "studies" / "study"
    predictions = pd.read_parquet(study / "best" / "predictions.parquet")
    assert predictions["name"].is_unique, "one row per clip, not per segment"
    spec = json.loads((study / "study.json").read_text())
    named = [set(spec["splits"][split]["group_names"]) for split in ("train", "tune", "valid", "test")]
    assert sum(map(len, named)) == len(set.union(*named)) == 18
    again = subprocess.run(
        [sys.executable, "-m", "trainables.retrain", str(study / "best" / "config.json"), str(tmp_path / "again")],
        cwd=ROOT,
        env={**os.environ, "ETUDE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=True,
    )
    metrics = json.loads((study / "best" / "metrics.json").read_text())
    assert f"{metrics['splits']['test']['balanced_accuracy']:.6f}  (was" in again.stdout
