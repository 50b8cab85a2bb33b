"""A saved model scored on other corpora, and the folder that a study's end leaves for it."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
import torch
from sklearn import metrics as sklearn_metrics

from analysis import evaluate as module
from analysis.evaluate import evaluate
from search.finish import finish
from tests.analysis.models import configuration, train, write_model
from tests.tiny import CLASSES, RATE_HZ
from trainables import corpora, data, loop, saved, scoring
from trainables.errors import UserError
from trainables.files import BEST_WEIGHTS
from trainables.seen import seen

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tiny_corpus: Path, cache: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETUDE_CACHE", str(cache))
        patch.setattr(scoring, "_RESAMPLES", 100)  # intervals are tested elsewhere, and take most of the time
        yield f"nsynth:{tiny_corpus}"
        data.load.cache_clear()
        data.fitted.cache_clear()
        data._kept.clear()


@pytest.fixture(scope="module")
def models(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("studies")
    return {kind: write_model(root / kind / "best", kind, corpus) for kind in ("waveform", "picture", "vector")}


def notes(tiny_corpus: Path, split: str = "test") -> list[Path]:
    return sorted((tiny_corpus / f"nsynth-{split}" / "audio").glob("*.wav"))


def write_folder(root: Path, files: list[Path], rate: int = RATE_HZ) -> str:
    """The notes in folders by family, at another rate."""
    for file in files:
        samples, _ = soundfile.read(file)
        place = root / file.name.partition("_")[0] / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, soxr.resample(samples, RATE_HZ, rate) if rate != RATE_HZ else samples, rate)
    return f"folder:{root}"


# --- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["waveform", "picture", "vector"])
def test_on_its_own_corpus_a_model_has_the_scores_of_its_study(kind: str, models: dict[str, Path], corpus: str) -> None:
    found = evaluate(saved.load(models[kind], CPU), corpus)
    assert found.trained_on
    assert list(found.splits) == ["train", "tune", "valid", "test"]
    assert found.notices[0].startswith("Warning: this is the corpus that the model was trained on.")
    wanted = json.loads((models[kind] / "metrics.json").read_text())["splits"]
    for name, row in found.splits.items():
        assert row.keys() == wanted[name].keys()
        for key, value in row.items():
            assert value == pytest.approx(wanted[name][key], abs=1e-6), (name, key)
    stored = pd.read_parquet(models[kind] / "predictions.parquet")
    pd.testing.assert_frame_equal(found.predictions, stored, atol=1e-5, check_dtype=False)


def test_on_another_corpus_all_labelled_clips_are_scored(
    models: dict[str, Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    """The folder kind keeps 22,050 Hz, so the clips come back by two resamplings, and nearly the same."""
    place = write_folder(tmp_path, notes(tiny_corpus))
    found = evaluate(saved.load(models["picture"], CPU), place)
    assert not found.trained_on and found.task == "label"
    assert list(found.splits) == ["all"]
    assert found.notices == ("The clips, kept at 22050 Hz, are resampled to the model's 16000 Hz.",)
    table, row = found.predictions, found.splits["all"]
    assert row["clips"] == 12
    assert row["accuracy"] == sklearn_metrics.accuracy_score(table["true"], table["predicted"])
    assert row["balanced_accuracy"] == sklearn_metrics.balanced_accuracy_score(table["true"], table["predicted"])
    f1 = sklearn_metrics.f1_score(table["true"], table["predicted"], average="macro", zero_division=0)
    assert row["macro_f1"] == pytest.approx(f1)
    columns = [f"p_{name}" for name in CLASSES]
    loss = sklearn_metrics.log_loss(table["true"], table[columns], labels=list(CLASSES))
    assert row["cross_entropy"] == pytest.approx(loss, abs=1e-6)
    stored = pd.read_parquet(models["picture"] / "predictions.parquet").set_index("name")
    same = stored.loc[[Path(name).name for name in table["name"]], columns]
    assert abs(table[columns].to_numpy() - same.to_numpy()).max() < 0.05


def test_clips_at_the_models_rate_in_another_corpus_have_the_same_probabilities(
    models: dict[str, Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    """The same notes, one with another source: another corpus of the same kind, with its own splits."""
    other = shutil.copytree(tiny_corpus, tmp_path / "other")
    examples = other / "nsynth-train" / "examples.json"
    rows = json.loads(examples.read_text())
    rows[next(iter(rows))]["instrument_source_str"] = "synthetic"
    examples.write_text(json.dumps(rows))
    columns = [f"p_{name}" for name in CLASSES]
    for kind in ("waveform", "vector"):
        found = evaluate(saved.load(models[kind], CPU), f"nsynth:{other}")
        assert not found.trained_on and len(found.notices) == 1
        assert found.notices[0].startswith(
            "Warning: the model was trained or chosen on recordings that are among these"
        )
        assert ", 36 of 36 clips of train, so" in found.notices[0]
        assert list(found.splits) == ["train", "valid", "test"]
        assert [row["clips"] for row in found.splits.values()] == [36, 12, 12]
        stored = pd.read_parquet(models[kind] / "predictions.parquet").set_index("name")
        table = found.predictions.set_index("name")
        np.testing.assert_allclose(table[columns], stored.loc[table.index, columns], atol=1e-5)
    model = saved.load(models["waveform"], CPU)
    whole = evaluate(model, f"nsynth:{other}", how="all")
    assert {name: row["clips"] for name, row in whole.splits.items()} == {"all": 60}
    assert list(evaluate(model, f"nsynth:{other}", how="official").splits) == ["train", "valid", "test"]


def test_some_of_the_classes_suffice_and_others_are_named(
    models: dict[str, Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    model = saved.load(models["waveform"], CPU)
    two = [file for file in notes(tiny_corpus) if not file.name.startswith("reed")]
    found = evaluate(model, write_folder(tmp_path / "two", two)).splits["all"]
    assert found["clips"] == 8
    place = write_folder(tmp_path / "four", notes(tiny_corpus))
    for name in ("oboe", "<b>"):
        shutil.copytree(tmp_path / "four" / "reed", tmp_path / "four" / name)
    with pytest.raises(UserError, match=r"also has '<b>', 'oboe'\. Remove"):
        evaluate(model, place)


def test_tasks_and_splits_are_checked(models: dict[str, Path], corpus: str, tiny_corpus: Path, tmp_path: Path) -> None:
    model = saved.load(models["waveform"], CPU)
    place = write_folder(tmp_path, notes(tiny_corpus, "train"))
    with pytest.raises(UserError, match="also has 'acoustic', 'electronic'"):
        evaluate(model, corpus, task="source")
    with pytest.raises(UserError, match="--task must be label for folder:"):
        evaluate(model, place, task="family")
    for how in ("all", "random"):
        with pytest.raises(UserError, match=f"by the splits of its training, official, but --split is {how}"):
            evaluate(model, corpus, how=how)
    with pytest.raises(UserError, match="--split filtered is not for folder:"):
        evaluate(model, place, how="filtered")
    with pytest.raises(UserError, match="--split official needs a corpus with splits of its own"):
        evaluate(model, place, how="official")
    assert list(evaluate(model, place, how="random").splits) == ["train", "tune", "valid", "test"]


def test_synth_leads_are_left_out_as_in_training(models: dict[str, Path], tiny_corpus: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_corpus, tmp_path / "other")
    examples = other / "nsynth-train" / "examples.json"
    rows = json.loads(examples.read_text())
    for row in rows.values():
        if row["instrument_str"].startswith("reed_acoustic_003"):
            row["instrument_family_str"] = "synth_lead"
    examples.write_text(json.dumps(rows))
    found = evaluate(saved.load(models["waveform"], CPU), f"nsynth:{other}")
    assert found.notices[1:] == ("3 notes of synth_lead left out, as in training.",)
    assert found.splits["train"]["clips"] == 33


def test_a_corpus_that_has_changed_in_its_place_is_not_taken_for_a_new_one(
    models: dict[str, Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    model = saved.load(models["waveform"], CPU)
    record = json.loads((models["waveform"] / "config.json").read_text())
    record["config"]["data"]["digest"] = "f" * 64
    folder = shutil.copytree(models["waveform"], tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(record))
    found = evaluate(saved.load(folder, CPU), model.config.data.corpus)
    assert not found.trained_on
    assert "among these, 36 of 36 clips of train, so scores there flatter" in found.notices[0]
    (folder / "seen.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"must be whole, but .*seen\.safetensors is not"):
        evaluate(saved.load(folder, CPU), model.config.data.corpus)
    (folder / "seen.safetensors").unlink()  # as older versions left it
    found = evaluate(saved.load(folder, CPU), model.config.data.corpus)
    assert "its content is another by now" in found.notices[0]


def test_what_was_trained_on_is_known_and_what_tests_is_not(
    models: dict[str, Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    train, test = sorted(notes(tiny_corpus, "train"))[:3], sorted(notes(tiny_corpus, "test"))
    model = saved.load(models["waveform"], CPU)
    store = corpora.open_corpus(f"nsynth:{tiny_corpus}")
    rows = np.flatnonzero(store.clips["name"].isin([file.stem for file in (*train, *test)]))
    known = seen(model.folder, store, rows)
    assert known.sum() == 3 and set(store.clips["name"].iloc[rows[known]]) == {file.stem for file in train}
    other = tmp_path / "none"
    other.mkdir()
    assert not seen(other, store, rows).any()


def test_a_corpus_that_was_moved_is_found_by_whoever_trains_again(corpus: str, tmp_path: Path) -> None:
    made = engine(tmp_path, "waveform", corpus)
    finish(made)
    whole = json.loads((tmp_path / "best" / "config.json").read_text())
    written = {**whole, "config": {**whole["config"], "data": {**whole["config"]["data"], "corpus": "nsynth:/gone"}}}
    (tmp_path / "best" / "config.json").write_text(json.dumps(written))
    before = (tmp_path / "best" / "metrics.json").read_bytes()
    finish(made)
    assert json.loads((tmp_path / "best" / "config.json").read_text()) == whole
    assert (tmp_path / "best" / "metrics.json").read_bytes() == before


def test_a_model_that_is_replaced_is_none_until_it_is_whole(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = engine(tmp_path, "waveform", corpus)
    finish(made)
    (tmp_path / "study.json").write_text("{}")
    made.trials[0].number = 1  # another trial is the best by now

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saved, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        finish(made)
    with pytest.raises(UserError, match=r"Finish it with --resume"):
        saved.load(tmp_path, CPU)


@pytest.mark.parametrize("kind", ["waveform", "vector"])
def test_answers_that_are_no_numbers_are_left_out(
    kind: str, models: dict[str, Path], corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a batch, and then all."""
    model = saved.load(models[kind], CPU)
    with torch.inference_mode():
        first = loop.forward
        seen = []

        def one_overflows(network: Any, inputs: Any) -> Any:
            found = first(network, inputs)
            if not seen:
                seen.append(inputs[3].clone())
            return found.masked_fill((inputs == seen[0]).flatten(1).all(1)[:, None], float("nan"))

        monkeypatch.setattr(loop, "forward", one_overflows)
        found = evaluate(model, corpus)
        assert len(found.predictions) == 59
        assert found.notices[-1].startswith("1 clip left out (such as ")
        assert "not finite: the model's answer holds NaN" in found.notices[-1]
        monkeypatch.setattr(loop, "forward", lambda network, inputs: first(network, inputs) * float("nan"))
        with pytest.raises(UserError, match=r"but none of nsynth:.* is \(.*: not finite: .*\). Name another corpus"):
            evaluate(model, corpus)


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    def ask(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            module.main()
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return ask


def test_the_command_shows_what_it_writes(
    models: dict[str, Path],
    corpus: str,
    tiny_corpus: Path,
    tmp_path: Path,
    asked: Callable[..., tuple[object, str, str]],
) -> None:
    code, out, err = asked(models["waveform"].parent, "--data", corpus)
    assert code == 0
    assert err.startswith("Warning: this is the corpus")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:4] == ["split", "clips", "groups", "accuracy"]
    assert [line[0] for line in lines[1:]] == ["train", "tune", "valid", "test"]
    stored = json.loads((models["waveform"] / "metrics.json").read_text())["splits"]["test"]
    assert lines[4][1:5] == ["12", "6", f"{stored['accuracy']:.4f}", f"{stored['balanced_accuracy']:.4f}"]
    place = write_folder(tmp_path / "in", notes(tiny_corpus))
    code, out, err = asked(models["waveform"], "--data", place, "--json", "--output", tmp_path / "out.parquet")
    record = json.loads(out)
    assert code == 0
    assert record["splits"]["all"]["clips"] == 12
    assert record["notices"] == err.splitlines()
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 12


def test_mistakes_are_explained(
    models: dict[str, Path], corpus: str, tmp_path: Path, asked: Callable[..., tuple[object, str, str]]
) -> None:
    folder = models["waveform"]
    assert "Missing option '--data'" in str(asked(folder)[0])
    assert "--data must be one of demo" in str(asked(folder, "--data", "notes")[0])
    assert "does not exist" in str(asked(folder, "--data", f"folder:{tmp_path / 'gone'}")[0])
    assert "does not exist. Check the path." in str(asked(tmp_path / "gone", "--data", corpus)[0])
    assert "Make it first" in str(asked(folder, "--data", corpus, "--output", tmp_path / "no" / "x")[0])


def test_predictions_take_the_place_of_nothing_that_was_used(
    models: dict[str, Path], tiny_corpus: Path, tmp_path: Path, asked: Callable[..., tuple[object, str, str]]
) -> None:
    place = write_folder(tmp_path / "in", notes(tiny_corpus))
    (wave, *_) = sorted((tmp_path / "in").rglob("*.wav"))
    table = tmp_path / "table.csv"
    table.write_text(
        "path,label\n"
        + "".join(f"{f.relative_to(tmp_path)},{f.parent.name}\n" for f in sorted((tmp_path / "in").rglob("*.wav")))
    )
    (tmp_path / "link").symlink_to(wave)
    folder = models["waveform"]
    kept = {file: file.read_bytes() for file in (wave, table, folder / "predictions.parquet")}
    for corpus, output in (
        (place, wave),
        (place, tmp_path / "link"),
        (place, folder / "predictions.parquet"),
        (place, folder.parent / "new.parquet"),
        (f"csv:{table}", wave),
        (f"csv:{table}", tmp_path / "link"),
        (f"csv:{table}", table),
    ):
        assert "A result must not " in str(asked(folder.parent, "--data", corpus, "--output", output)[0])
    assert {file: file.read_bytes() for file in kept} == kept


# --- what the end of a study leaves ------------------------------------------------------------


def engine(directory: Path, kind: str, corpus: str) -> Any:
    """As much of an engine as the end of a study looks at, with one trial that was trained."""
    config = configuration(kind, corpus)
    checkpoint = directory / "checkpoints" / "0000"
    if not checkpoint.exists():
        train(checkpoint, kind, corpus)
    trial = SimpleNamespace(
        number=0, params={}, baseline=None, seed=3, origin="default", score=0.5, best_epoch=1, epoch=2
    )
    journal = SimpleNamespace(directory=directory, rows=[], mirror=None, folder=lambda number: checkpoint)
    spec = SimpleNamespace(config=lambda *_: config, space=SimpleNamespace(baselines=()))
    return SimpleNamespace(best=lambda: [trial], trials=[trial], journal=journal, spec=spec)


@pytest.mark.parametrize("kind", ["waveform", "vector"])
def test_the_end_of_a_study_leaves_a_model_and_mends_an_older_one(kind: str, corpus: str, tmp_path: Path) -> None:
    made = engine(tmp_path, kind, corpus)
    first = finish(made)["best"]
    best = tmp_path / "best"
    files = {"model.safetensors", "seen.safetensors", "config.json", "predictions.parquet", "metrics.json"}
    assert {file.name for file in best.iterdir()} == files | ({"features.safetensors"} if kind == "vector" else set())
    predictions = pd.read_parquet(best / "predictions.parquet")
    found = evaluate(saved.load(best, CPU), corpus).predictions
    found = found[found["split"] != "train"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, predictions, atol=1e-5, check_dtype=False)
    parameters = sum(layer["trainable"] for layer in saved.load(best, CPU).layers)
    assert parameters == first["trainable_parameters"]

    before = (best / "metrics.json").read_bytes()
    assert finish(made)["best"] == first
    assert (best / "metrics.json").read_bytes() == before, "what is whole is not scored again"
    whole = json.loads((best / "config.json").read_text())
    for key in ("clip_seconds", "input_shape", "layers"):
        (best / "config.json").write_text(json.dumps({name: v for name, v in whole.items() if name != key}))
        again = finish(made)["best"]
        assert {**again, "prediction_ms": 0} == {**first, "prediction_ms": 0}
        assert json.loads((best / "config.json").read_text()) == whole
    for name in ("features.safetensors",) if kind == "vector" else ("predictions.parquet",):
        kept = (best / name).read_bytes()
        (best / name).unlink()
        finish(made)
        assert (best / name).read_bytes() == kept


def test_answers_for_unlabelled_clips_are_called_id_and_label(tmp_path: Path, corpus: str) -> None:
    rng = np.random.default_rng(0)
    time = np.arange(6000) / 22_050
    for number, genre in enumerate(("blues", "jazz", "rock")):
        for take in range(14):
            file = tmp_path / "gtzan" / genre / f"{genre}.{take:05d}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            wave = np.sin(2 * np.pi * 200 * 4**number * time) + 0.1 * rng.standard_normal(6000)
            soundfile.write(file, 0.4 * wave, 22_050)
    (tmp_path / "gtzan" / "test").mkdir()
    for name in ("b", "a"):
        soundfile.write(tmp_path / "gtzan" / "test" / f"{name}.wav", 0.3 * rng.standard_normal(6000), 22_050)
    place = f"gtzan:{tmp_path / 'gtzan'}"
    finish(engine(tmp_path / "study", "waveform", place))
    text = (tmp_path / "study" / "best" / "submission.csv").read_text()
    found = pd.read_csv(io.StringIO(text))
    assert list(found.columns) == ["id", "label"]
    assert found["id"].tolist() == ["test/a", "test/b"]
    assert set(found["label"]) <= {"blues", "jazz", "rock"}
    model = saved.load(tmp_path / "study", CPU)
    chances = [model.chances([model.read(tmp_path / "gtzan" / f"{name}.wav").samples])[0] for name in found["id"]]
    assert found["label"].tolist() == [model.classes[row.argmax()] for row in chances]
    scored = evaluate(model, place)
    assert sum(row["clips"] for row in scored.splits.values()) == 42, "unlabelled clips are not scored"
    data_config = replace(model.config.data, digest="f" * 64)
    stranger = replace(model, config=replace(model.config, data=data_config))
    assert evaluate(stranger, place).splits["all"]["clips"] == 42, "nor where the corpus is another"
    assert (tmp_path / "study" / "checkpoints" / "0000" / BEST_WEIGHTS).exists()
