"""A model trained again from its `config.json` alone is the same model."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainables import data, loop
from trainables.config import DataConfig, TrialConfig
from trainables.evaluate import predict, summarise
from trainables.files import WEIGHTS
from trainables.retrain import main, retrain

SPLITS = ("tune", "valid", "test")


@pytest.fixture
def best(corpus_config: DataConfig, tiny_config: Callable[..., TrialConfig], tmp_path: Path) -> Path:
    """A folder as a study leaves it: weights, `config.json`, `metrics.json`."""
    folder = tmp_path / "best"
    config = tiny_config(data=corpus_config, dropout=0.3, plateau_factor=0.5, plateau_patience=0)
    list(loop.train(config, data.trial_data(config.data, config.features, torch.device("cpu")), folder))
    (folder / "config.json").write_text(json.dumps({"config": config.to_json()}, allow_nan=False))
    found = summarise(predict(config, folder / WEIGHTS, SPLITS))
    (folder / "metrics.json").write_text(json.dumps({"splits": found}, allow_nan=False))
    data.load.cache_clear()
    data._kept.clear()
    return folder


def stored(folder: Path) -> dict[str, Any]:
    splits: dict[str, Any] = json.loads((folder / "metrics.json").read_text())["splits"]
    return splits


def test_retraining_gives_the_same_scores_and_weights(best: Path, tmp_path: Path) -> None:
    torch.manual_seed(1234)
    alone = tmp_path / "alone" / "config.json"
    alone.parent.mkdir()
    alone.write_bytes((best / "config.json").read_bytes())
    found = retrain(alone, tmp_path / "again")
    assert tuple(found) == SPLITS
    assert found == stored(best)
    left, right = (load_file(folder / WEIGHTS) for folder in (best, tmp_path / "again"))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_another_seed_gives_another_model(best: Path, tmp_path: Path) -> None:
    record = json.loads((best / "config.json").read_text())
    config = TrialConfig.from_json(record["config"])
    (tmp_path / "config.json").write_text(json.dumps({"config": replace(config, seed=4).to_json()}))
    assert retrain(tmp_path / "config.json", tmp_path / "again") != stored(best)


def test_the_command_shows_both_scores(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["retrain", str(best / "config.json"), str(tmp_path / "new")])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("epoch ")]) == 5
    for name, row in stored(best).items():
        score = f"{row['balanced_accuracy']:.6f}"
        (line,) = [line for line in lines if line.startswith(name)]
        assert f"balanced accuracy {score}  (was {score})  accuracy {row['accuracy']:.6f}" in line
    assert (tmp_path / "new" / WEIGHTS).exists()


def test_the_command_without_a_file_says_how_to_use_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for argv in ([], ["a", "b", "c"]):
        monkeypatch.setattr(sys, "argv", ["retrain", *argv])
        with pytest.raises(SystemExit, match=r"python -m trainables\.retrain"):
            main()
    monkeypatch.setattr(sys, "argv", ["retrain", str(tmp_path / "missing.json")])
    with pytest.raises(SystemExit, match=r"missing\.json is no file"):
        main()
    (tmp_path / "empty.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["retrain", str(tmp_path / "empty.json")])
    with pytest.raises(SystemExit, match=r"config\.json must be whole"):
        main()


def test_the_command_says_when_the_corpus_is_another_by_now(
    best: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = json.loads((best / "config.json").read_text())
    record["config"]["data"]["digest"] = "f" * 64
    (tmp_path / "config.json").write_text(json.dumps(record))
    monkeypatch.setattr(sys, "argv", ["retrain", str(tmp_path / "config.json"), str(tmp_path / "new")])
    with pytest.raises(SystemExit, match="has changed since it began"):
        main()
