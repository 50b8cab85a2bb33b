"""A model trained again from its `config.json` alone is the same model."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from trainables import data, loop, saved
from trainables.config import DataConfig, TrialConfig
from trainables.evaluate import predict
from trainables.files import BEST_WEIGHTS
from trainables.retrain import find_config, main, retrain
from trainables.scoring import summarise

SPLITS = ("tune", "valid", "test")


@pytest.fixture
def best(corpus_config: DataConfig, tiny_config: Callable[..., TrialConfig], tmp_path: Path) -> Path:
    """A folder as a study leaves it: weights, `config.json`, `metrics.json`."""
    folder = tmp_path / "best"
    config = tiny_config(data=corpus_config, dropout=0.3, plateau_factor=0.5, plateau_patience=0)
    list(loop.train(config, data.trial_data(config.data, config.features, torch.device("cpu")), folder))
    (folder / "config.json").write_text(json.dumps({"config": config.to_json()}, allow_nan=False))
    found = summarise(predict(config, folder / BEST_WEIGHTS, SPLITS))
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
    left, right = load_file(best / BEST_WEIGHTS), load_file(tmp_path / "again" / saved.WEIGHTS)
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
    assert lines[0].startswith("Loading Torch and the corpus ")
    assert [line.split()[0] for line in lines[1:8]] == ["Training", *["epoch"] * 5, "Scoring"]
    assert len([line for line in lines if line.startswith("epoch ")]) == 5
    for name, row in stored(best).items():
        score = f"{row['balanced_accuracy']:.6f}"
        (line,) = [line for line in lines if line.startswith(name)]
        assert f"balanced accuracy {score}  (was {score})  accuracy {row['accuracy']:.6f}" in line
    assert f"The model lies in {tmp_path / 'new'}." in lines


def test_the_new_folder_is_a_model(best: Path, tmp_path: Path) -> None:
    found = retrain(best / "config.json", tmp_path / "new")
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "config.json",
        "metrics.json",
        "model.safetensors",
        "predictions.parquet",
        "seen.safetensors",
    ]
    assert stored(tmp_path / "new") == found
    model = saved.load(tmp_path / "new", torch.device("cpu"))
    predictions = pd.read_parquet(tmp_path / "new" / "predictions.parquet")
    store = data.load(model.config.data).store
    clips = store.clips.set_index("name").loc[predictions["name"]]
    chances = model.chances([store.samples[row.offset : row.offset + row.samples] for row in clips.itertuples()])
    np.testing.assert_allclose(chances, predictions[[f"p_{name}" for name in model.classes]], atol=1e-5)
    assert retrain(tmp_path / "new" / "config.json", tmp_path / "third") == found


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["retrain", *map(str, arguments)])
    main()


def refusal(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        asked(monkeypatch, *arguments)
    assert isinstance(caught.value.code, str), "a sentence, and with it exit code 1"
    return caught.value.code


def test_a_run_that_diverges_says_so(best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((best / "config.json").read_text())
    config = TrialConfig.from_json(record["config"])
    wild = replace(config, training=replace(config.training, optimiser="sgd", learning_rate=1e30, clip_norm=0.0))
    (tmp_path / "config.json").write_text(json.dumps({"config": wild.to_json()}))
    said = refusal(monkeypatch, tmp_path / "config.json", tmp_path / "new")
    assert "must train without diverging, but" in said
    assert "in epoch " in said


def test_a_reader_that_has_gone_costs_no_training(best: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainables.retrain", str(best), str(tmp_path / "new")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert stored(tmp_path / "new") == stored(best)


def test_what_cannot_be_read_is_not_blamed_on_the_new_folder(
    best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "trial_data", lambda *_: (tmp_path / "corpus" / "labels.csv").read_text())
    said = refusal(monkeypatch, best, tmp_path / "new")
    assert f"{tmp_path}/corpus/labels.csv cannot be used (No such file or directory)" in said
    assert "File name too long" in refusal(monkeypatch, "x" * 300)


def test_help_says_what_is_expected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("--help", "-h"):
        asked(monkeypatch, name)
        shown = " ".join(capsys.readouterr().out.split())
        assert "python -m trainables.retrain [OPTIONS] MODEL [FOLDER]" in shown
        assert "best/baselines/NAME" in shown and "must be new or empty" in shown
    assert "Missing argument 'MODEL'" in refusal(monkeypatch)
    assert "unexpected extra argument (c)" in refusal(monkeypatch, "a", "b", "c")
    assert "No such option" in refusal(monkeypatch, "--again")


def test_a_configuration_from_elsewhere_does_not_decide_what_is_imported(
    best: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = json.loads((best / "config.json").read_text())
    record["config"]["network"] = "mine.model"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    (tmp_path / "config.json").write_text(json.dumps(record))
    monkeypatch.syspath_prepend(tmp_path)
    assert "one of the project's own, but that of" in refusal(monkeypatch, tmp_path / "config.json", tmp_path / "new")
    assert not (tmp_path / "imported").exists()


def test_help_comes_without_torch() -> None:
    code = (
        "import sys, trainables.retrain as r; sys.argv = ['retrain', '-h']; r.main(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_model_is_found_by_its_study_its_folder_or_its_file(tmp_path: Path) -> None:
    study = tmp_path / "blstm"
    files = [study / "best" / "config.json", study / "best" / "baselines" / "simple" / "config.json"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    (study / "study.json").write_text("{}")
    for place in (study, study / "best", files[0]):
        assert find_config(place) == files[0]
    for place in (files[1].parent, files[1]):
        assert find_config(place) == files[1]


def test_what_holds_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all" / "mlp" / "best").mkdir(parents=True)
    (tmp_path / "all" / "mlp" / "best" / "config.json").write_text("{}")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "study.json").write_text("{}")
    for place, words in {
        "gone": "gone does not exist. Check the path.",
        "all": "all holds several studies. Give one of them: mlp.",
        "begun": "begun has no best/config.json yet. Finish it with --resume.",
        "all/mlp/best/baselines": "does not exist",
    }.items():
        assert words in refusal(monkeypatch, tmp_path / place)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.json", '{"splits": {}}', "holds its scores. Give the config.json beside it."),
        ("config.json", "{}", "is not (KeyError: 'config'). Give the config.json of a study's best/ folder."),
        ("config.json", "[]", "is not (TypeError"),
        ("config.json", "{", "is not (JSONDecodeError"),
        ("config.json", '{"config": {"data": {"corpus": 5}}}', "its corpus is no text"),
        ("config.json", '{"config": {"data": {"corpus": "demo"}}}', "is not (its features are None)"),
        ("model.safetensors", "\0\1", "is not (JSONDecodeError"),
        ("study.json", '{"data": {}}', "is not (KeyError: 'config')"),
    ],
)
def test_what_is_no_configuration_is_refused(
    name: str, content: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(content)
    assert words in refusal(monkeypatch, tmp_path / name)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_left_alone(
    best: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = {file.name: file.read_bytes() for file in best.iterdir()}
    for folder in (best, best / "config.json"):
        assert f"must be new or empty, but {folder} is not" in refusal(monkeypatch, best, folder)
    assert {file.name: file.read_bytes() for file in best.iterdir()} == before


def test_a_place_that_cannot_hold_the_model_is_refused_before_it_is_trained(
    best: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("trainables.retrain.retrain", lambda *_: pytest.fail("trained"))
    for folder in (tmp_path / "file" / "new", tmp_path / ("n" * 300)):
        assert f"but {folder} cannot be made" in refusal(monkeypatch, best, folder)


def test_a_full_disk_is_said_in_a_sentence(best: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainables.retrain.retrain", full)
    assert "but No space left on device. Put that right" in refusal(monkeypatch, best, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_says_when_the_corpus_is_another_by_now(
    best: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = json.loads((best / "config.json").read_text())
    record["config"]["data"]["digest"] = "f" * 64
    (tmp_path / "config.json").write_text(json.dumps(record))
    monkeypatch.setattr(sys, "argv", ["retrain", str(tmp_path / "config.json"), str(tmp_path / "new")])
    with pytest.raises(SystemExit, match="has changed since it began"):
        main()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert "has changed since it began" in refusal(monkeypatch, tmp_path / "config.json")
    assert not list((tmp_path / "temporary").glob("etude-retrain-*")), "an empty folder of its own is not left behind"
