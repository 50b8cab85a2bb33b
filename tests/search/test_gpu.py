"""Trials that share a GPU: one that finds too little of its memory goes on with a larger share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.records import EPOCHS, TRIALS, read_rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def run(corpus: Path, folder: Path, faults: str, gpus: float, cache: Path) -> list[tuple[str, str, int, str | None]]:
    """Fault, state, last epoch and reason of each trial."""
    return study(corpus, folder, faults, gpus, cache)[0]


def study(
    corpus: Path, folder: Path, faults: str, gpus: float, cache: Path
) -> tuple[list[tuple[str, str, int, str | None]], str | None]:
    """The same, and the advice."""
    command = [sys.executable, "-m", "tests.search.gpu", f"nsynth:{corpus}", str(folder), faults, str(gpus)]
    environment = {**os.environ, "ETUDE_CACHE": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    advice, trials = map(json.loads, done.stdout.splitlines()[-2:])
    return [tuple(row) for row in trials], advice


def test_a_trial_that_does_not_fit_in_its_share_goes_on_with_a_larger_one(
    tiny_corpus: Path, tmp_path: Path, cache: Path
) -> None:
    """From a quarter to a half to the whole of a GPU, from the epoch that did not fit on."""
    trials = run(tiny_corpus, tmp_path, "none,crowded", 0.25, cache)
    assert {fault for fault, *_ in trials} == {"none", "crowded"}, "both occur among these trials"
    assert {(state, epoch) for _, state, epoch, _ in trials} == {("complete", 3)}
    began = [row["trial"] for row in read_rows(tmp_path / TRIALS) if row["event"] == "started"]
    assert sorted(began) == [0, 1, 2, 3, 4], "no trial begins twice"
    epochs = [(row["trial"], row["epoch"]) for row in read_rows(tmp_path / EPOCHS)]
    assert sorted(epochs) == [(trial, epoch) for trial in range(5) for epoch in (1, 2, 3)]


def test_a_study_says_how_many_trials_could_share_a_gpu(tiny_corpus: Path, tmp_path: Path, cache: Path) -> None:
    trials, advice = study(tiny_corpus, tmp_path, "small", 1, cache)
    assert [(state, epoch) for _, state, epoch, _ in trials] == [("complete", 3)] * 5
    assert advice == "Trials took up to 25% of a GPU's memory each; with --gpus-per-trial 0.5 2 share one."
    assert {row["gpu_share"] for row in read_rows(tmp_path / EPOCHS)} == {0.25}


def test_a_trial_that_does_not_fit_in_a_whole_gpu_fails_alone(tiny_corpus: Path, tmp_path: Path, cache: Path) -> None:
    trials = run(tiny_corpus, tmp_path, "none,huge", 0.5, cache)
    ends = {fault: (state, reason) for fault, state, _, reason in trials}
    assert ends["none"] == ("complete", None)
    assert ends["huge"] == ("failed", "out of GPU memory: CUDA out of memory. Tried to allocate 90.00 GiB.")
