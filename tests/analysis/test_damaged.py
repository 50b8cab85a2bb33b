"""What is said of studies that are damaged, impossible, or named twice."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import load_studies, load_study
from analysis.figures import models, progress
from tests.analysis.made import make_study
from trainables.errors import UserError

RECIPE = "mlp-genre-ce"
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("whole") / "mlp", trials=8)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A whole study, to be damaged."""
    return shutil.copytree(made, tmp_path / "mlp")


def change(path: Path, **values: Any) -> None:
    """Other values in a JSON file; those that are `...` are taken out."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))


def change_row(path: Path, number: int, **values: Any) -> None:
    lines = path.read_text().splitlines(keepends=True)
    row = json.loads(lines[number]) | values
    lines[number] = json.dumps({name: value for name, value in row.items() if value is not ...}) + "\n"
    path.write_text("".join(lines))


def refuses(study: Path, words: str) -> None:
    """Both refuse the study in a sentence that says this, and so does the one that loads several."""
    for load in (load_study, load_studies):
        with pytest.raises(UserError, match=words) as caught:
            load(study)
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


# Names.


def test_studies_of_several_comparisons_have_names_of_their_own(tmp_path: Path) -> None:
    places = [make_study(tmp_path / name, trials=1, baselines=False) for name in ("x/gm/mlp", "y/gm/mlp", "y/gm/b")]
    studies = load_studies(*places)
    assert [study.name for study in studies.studies] == ["x/gm/mlp", "y/gm/mlp", "b"]
    assert studies.trials["study"].tolist() == studies.epochs["study"].unique().tolist()
    assert {model.study for model in studies.models} == {study.name for study in studies.studies}


def test_a_study_is_there_once_by_whatever_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = make_study(tmp_path / "a" / "same", trials=1, baselines=False)
    (tmp_path / "link").symlink_to(same)
    monkeypatch.chdir(tmp_path)
    studies = load_studies("link", same, "a/../a/same", "./a/same/", "a")
    assert [study.name for study in studies.studies] == ["link"]  # as it was named first
    assert load_study("a/same/../same").name == "same"
    shutil.copytree(same, tmp_path / "b" / "same")
    assert [study.name for study in load_studies("a/same", "b/same", "link").studies] == ["a/same", "b/same"]


# The study's own files.


@pytest.mark.parametrize(
    "values",
    [
        *({name: ...} for name in ("trials", "max_epochs", "grace_epochs", "reduction_factor", "rungs", "classes")),
        *({name: ...} for name in ("splits", "data", "created", "commit", "space")),
        {"trials": "many"}, {"max_epochs": True}, {"rungs": []}, {"rungs": ["3"]}, {"classes": "abc"},
        {"classes": ["a", "a"]}, {"classes": ["\ud800"]}, {"splits": []}, {"splits": {"test": {"clips": 3}}},
        {"data": {"corpus": "demo"}}, {"data": {"corpus": "demo", "task": "family"}}, {"created": None}, {"commit": 3},
        {"space": {"name": "mlp"}}, {"space": None}, {"fixed": None}, {"fixed": [3]}, {"majority_share": None},
        {"majority_share": {"test": "much"}},
    ],
)  # fmt: skip
def test_a_study_json_that_lacks_what_is_needed(values: dict[str, Any], copy: Path) -> None:
    change(copy / "study.json", **values)
    refuses(copy, r"must be whole, but .*study\.json is not: .*Restore it from a copy")


@pytest.mark.parametrize(
    "values",
    [
        *({"score": score} for score in (float("inf"), float("nan"), 7.5, -0.1, "0.5", None, True, 10**400)),
        *({name: ...} for name in ("seq", "time", "event", "trial", "epoch", "score", "rung", "tune_accuracy")),
        {"seq": "1"}, {"time": None}, {"trial": [1]}, {"decision": "perhaps"}, {"tune_balanced_accuracy": 7.5},
        {"train_loss": float("inf")}, {"memory_bytes": "much"},
    ],
)  # fmt: skip
def test_an_epoch_that_cannot_be(values: dict[str, Any], copy: Path) -> None:
    change_row(copy / "epochs.jsonl", 3, **values)
    refuses(copy, r"must be whole, but .*epochs\.jsonl is not: ")


@pytest.mark.parametrize("values", [{"params": 3}, {"origin": "nowhere"}, {"baseline": 3}, {"trial": ...}])
def test_a_trial_that_cannot_be(values: dict[str, Any], copy: Path) -> None:
    change_row(copy / "trials.jsonl", 1, **values)
    refuses(copy, r"must be whole, but line 2 of .*trials\.jsonl is not: ")


@pytest.mark.parametrize("line", ["[]", "3", "null", '"text"', "{}"])
def test_a_line_that_is_no_row(line: str, copy: Path) -> None:
    (copy / "trials.jsonl").write_text(line + "\n")
    refuses(copy, r"must be whole, but line 1 of .*trials\.jsonl is not: ")


@pytest.mark.parametrize("name", ["study.json", "epochs.jsonl", "trials.jsonl"])
@pytest.mark.parametrize("content", [DEEP + "\n", "\x00\n", "\udcff\n"])
def test_what_is_no_json(name: str, content: str, copy: Path) -> None:
    (copy / name).write_bytes(content.encode(errors="surrogateescape"))
    refuses(copy, rf"must be JSON, but .*{name}|{name} must be JSON")


def test_one_damaged_study_among_several_is_named(copy: Path, made: Path) -> None:
    change(copy / "study.json", trials=...)
    with pytest.raises(UserError, match=f"{copy}/study.json is not: 'trials' is missing"):
        load_studies(made, copy)


def test_rows_that_are_there_twice_count_once(copy: Path) -> None:
    before = load_study(copy)
    for name in ("trials.jsonl", "epochs.jsonl"):
        (copy / name).write_text((copy / name).read_text() * 2)
    pd.testing.assert_frame_equal(load_study(copy).trials, before.trials)
    pd.testing.assert_frame_equal(load_study(copy).epochs, before.epochs)


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_text("")])
def test_what_has_no_score_is_not_full(lose: Callable[[Path], object], copy: Path) -> None:
    lose(copy / "epochs.jsonl")
    study = load_study(copy)
    assert "complete" in set(study.trials["state"])
    assert not study.trials["full"].any() and not study.trials["chosen"].any()
    assert study.models == () and len(study.damaged) == 4
    assert all("must be of a trial that was trained in full" in sentence for sentence in study.damaged)


@pytest.mark.parametrize(("content", "good"), [(b"", True), (b"\xff\xfe\x00", False), (b"a,b\n1,2\n", False)])
def test_recordings_left_out(content: bytes, good: bool, copy: Path) -> None:
    (copy / "quarantine.csv").write_bytes(content)
    if good:
        assert load_study(copy).quarantine.empty
        return
    with pytest.raises(UserError, match=r"must be whole, but .*quarantine\.csv is not: "):
        _ = load_study(copy).quarantine


@pytest.mark.parametrize("families", [None, "mlp", [3], ["../mlp"], [""]])
def test_a_comparison_that_names_no_families(families: Any, copy: Path) -> None:
    (copy.parent / "families.json").write_text(json.dumps({"families": families}))
    with pytest.raises(UserError, match=r"must be whole, but .*families\.json is not: "):
        load_studies(copy.parent)


# Scored models: one that is damaged is left out and named.


def left_out(study: Path, words: str, *, of: str = "best") -> None:
    """The other models are shown, and one sentence says what became of this one."""
    found = load_study(study)
    kept = [model.chosen for model in found.models]
    assert len(kept) == 3 and not (of == "best" and any(kept))
    (sentence,) = found.damaged
    assert sentence.startswith("A scored model is left out. ") and "\n" not in sentence and len(sentence) < 500
    assert re.search(words, sentence)


@pytest.mark.parametrize("of", ["best", f"best/baselines/{RECIPE}"])
@pytest.mark.parametrize("keep", [0, 4, 100, -8])
def test_predictions_cut_off(keep: int, of: str, copy: Path) -> None:
    path = copy / of / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    left_out(copy, rf"but .*{of}/predictions\.parquet is not: ", of=of)


def test_predictions_that_are_garbage_or_missing(copy: Path) -> None:
    path = copy / "best" / "predictions.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-200] + bytes(192) + whole[-8:])
    left_out(copy, r"predictions\.parquet")
    path.unlink()
    left_out(copy, r"predictions\.parquet")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: rows.drop(columns="group"), "the column 'group' is missing"),
        (lambda rows: rows.drop(columns=[c for c in rows if c.startswith("p_")]), "it has no probabilities"),
        (lambda rows: rows[:0], "it has no rows"),
        (lambda rows: rows.assign(predicted="kazoo"), "'kazoo' in 'predicted' is none of its classes"),
        (lambda rows: rows.assign(true="kazoo"), "'kazoo' in 'true' is none of its classes"),
        (lambda rows: rows.assign(predicted=3), "'3' in 'predicted' is none of its classes"),
        (lambda rows: rows.assign(name=None), "some of its cells are empty"),
        (lambda rows: rows.assign(p_bass="much"), "some of its probabilities are no numbers"),
        (lambda rows: rows.assign(p_kazoo=0.0), "its classes are .*kazoo.*, its model's "),
    ],
)
def test_predictions_that_are_not_some(spoil: Callable[[pd.DataFrame], pd.DataFrame], words: str, copy: Path) -> None:
    path = copy / "best" / "predictions.parquet"
    spoil(pd.read_parquet(path)).to_parquet(path)
    left_out(copy, words)


@pytest.mark.parametrize(
    "values",
    [
        *({name: ...} for name in ("trial", "baseline", "origin", "score", "best_epoch", "trainable_parameters")),
        *({name: ...} for name in ("training_seconds", "prediction_ms", "params", "changes", "splits")),
        {"score": 7.5}, {"score": float("inf")}, {"changes": "none"}, {"splits": {"test": {}}}, {"splits": None},
        {"trial": "0"}, {"prediction_ms": None},
    ],
)  # fmt: skip
def test_metrics_that_lack_what_is_needed(values: dict[str, Any], copy: Path) -> None:
    change(copy / "best" / "metrics.json", **values)
    left_out(copy, r"must be whole, but .*best/metrics\.json is not: ")


@pytest.mark.parametrize(
    ("of", "values"),
    [("best", {"trial": 0}), ("best", {"baseline": RECIPE}), (f"best/baselines/{RECIPE}", {"trial": 1})],
)
def test_metrics_of_another_trial(of: str, values: dict[str, Any], copy: Path) -> None:
    change(copy / of / "metrics.json", **values)
    left_out(copy, rf"{of}/metrics\.json must be of trial \d, but is of trial ", of=of)


@pytest.mark.parametrize("content", ["{}", "[]", DEEP, "", '{"config": {"data": {}}, "classes": ["a"]}'])
def test_a_config_that_is_none(content: str, copy: Path) -> None:
    (copy / "best" / "config.json").write_text(content)
    left_out(copy, r"best/config\.json")


@pytest.mark.parametrize("layers", [None, {}, [3], [{}], [{"name": "head", "kind": "Linear", "output_shape": 3}]])
def test_layers_that_are_none(layers: Any, copy: Path) -> None:
    change(copy / "best" / "config.json", layers=layers)
    left_out(copy, r"must be whole, but .*best/config\.json is not: ")


def test_numbers_that_disagree_are_named_and_the_model_stays(copy: Path) -> None:
    assert load_study(copy).damaged == ()
    path = copy / "best" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["splits"]["test"]["balanced_accuracy"] += 2e-7
    path.write_text(json.dumps(metrics))
    assert load_study(copy).damaged == ()
    metrics["splits"]["test"]["balanced_accuracy"] -= 0.01
    path.write_text(json.dumps(metrics))
    study = load_study(copy)
    (sentence,) = study.damaged
    assert "on test must be that of its stored predictions" in sentence and "best/metrics.json says" in sentence
    assert len(study.models) == 4


def test_a_damaged_model_is_not_said_to_wait_for_its_score(copy: Path) -> None:
    (copy / "best" / "config.json").write_text("")
    assert not [words for words in progress.warnings_of(load_study(copy)) if "not been scored" in words]


def test_the_width_of_words_in_any_script() -> None:
    assert models.inches(["日本語"], 8) > 0
