"""The trial dataframe: what the journal says, typed and documented, whole or not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import load_studies, load_study
from analysis.load import EPOCH_COLUMNS, TRIAL_COLUMNS
from tests.analysis.made import EPOCH_SECONDS, by_learning_rate, curve, make_study
from trainables.errors import UserError


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("studies") / "mlp", fails=lambda trial: trial == 9)


def test_every_trial_is_a_row_with_what_became_of_it(mlp: Path) -> None:
    trials = load_study(mlp).trials
    assert list(trials["trial"]) == list(range(30))
    assert list(trials["name"][:5]) == ["mlp-genre-ce", "mlp-genre-hinge", "mlp-genre-kl", "default", "trial 4"]
    assert list(trials["origin"].value_counts()[["published", "default", "sampled"]]) == [3, 1, 26]
    failed = trials.loc[9]
    assert (failed["state"], failed["epochs"], failed["best_epoch"]) == ("failed", 2, 1)
    assert failed["reason"] == "train loss became nan in epoch 2"
    params = {name[6:]: failed[name] for name in trials if name.startswith("param.")}
    assert failed["score"] == pytest.approx(curve(by_learning_rate(params), 1))
    full = trials[trials["full"]]
    assert set(full["state"]) == {"complete"} and set(full["epochs"]) == {9} and set(full["rung"]) == {9}
    assert (full["train_seconds"] == 9 * (EPOCH_SECONDS - 1)).all()
    assert set(trials.loc[trials["state"] == "pruned", "rung"]) <= {1, 3}
    assert list(trials.loc[trials["chosen"], "trial"]) == [full.sort_values("score")["trial"].iloc[-1]]
    assert (full["best_tune_accuracy"] == full["score"]).all()
    assert (full["last_train_macro_f1"] == full["score"] + 0.05).all()
    assert trials["trainable_parameters"].tolist() == [1000 * (n + 1) for n in range(30)]


def test_resolved_values_hold_settings_and_a_recipes_own(mlp: Path) -> None:
    trials = load_study(mlp).trials
    assert set(trials["config.clip_norm"]) == {0.0, 1.0}  # of the recipes, of all others
    assert trials.loc[0, "config.clip_norm"] == 0.0 and trials.loc[3, "config.clip_norm"] == 1.0
    assert trials.loc[0, "config.learning_rate"] == trials.loc[0, "param.learning_rate"] == 1e-3
    assert "param.clip_norm" not in trials


def test_columns_are_those_documented_and_typed(mlp: Path) -> None:
    study = load_study(mlp)
    for frame, columns in ((study.trials, TRIAL_COLUMNS), (study.epochs, EPOCH_COLUMNS)):
        own = [name for name in frame if not name.startswith(("param.", "config."))]
        assert own == list(columns)
        assert {name: str(frame[name].dtype) for name in own} == {name: kind for name, (kind, _) in columns.items()}
    kinds = {name: str(study.trials[f"param.{name}"].dtype) for name in ("learning_rate", "depth", "loss", "mixup")}
    assert kinds == {"learning_rate": "Float64", "depth": "Int64", "loss": "str", "mixup": "Float64"}


def test_epochs_carry_the_time_worked_without_pauses(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", trials=4)
    rows = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    trials = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    for row in (*rows, *trials):  # a pause of a thousand seconds before row 12
        row["seq"] += row["seq"] >= 12
        row["time"] += 1000 * (row["seq"] > 12)
    trials.append(
        {"seq": 12, "time": min(r["time"] for r in rows if r["seq"] > 12) - EPOCH_SECONDS, "event": "session"}
    )
    for name, some in (("epochs.jsonl", rows), ("trials.jsonl", trials)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in some))
    seconds = load_study(folder).epochs["study_seconds"]
    assert seconds.tolist() == [EPOCH_SECONDS * n for n in range(1, len(rows) + 1)]


def test_a_running_study_and_a_line_cut_off(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", finished=False, trials=6)
    whole = load_study(folder)
    assert whole.trials["state"].iloc[-1] == "running" and whole.models == ()
    with (folder / "epochs.jsonl").open("a") as file:
        file.write('{"seq": 99, "event": "epo')
    pd.testing.assert_frame_equal(load_study(folder).epochs, whole.epochs)
    (folder / "trials.jsonl").write_text("")
    (folder / "epochs.jsonl").unlink()
    empty = load_study(folder)
    assert (len(empty.trials), len(empty.epochs)) == (0, 0)
    assert list(empty.trials.columns) == list(TRIAL_COLUMNS)


def test_parquet_and_csv_hold_it_all(mlp: Path, tmp_path: Path) -> None:
    trials = load_study(mlp).trials
    trials.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), trials)
    trials.to_csv(tmp_path / "t.csv", index=False)
    back = pd.read_csv(tmp_path / "t.csv")
    np.testing.assert_allclose(back["score"], trials["score"].astype(float))


def test_several_studies_stand_one_below_the_other(tmp_path: Path) -> None:
    make_study(tmp_path / "both" / "mlp", trials=5)
    make_study(tmp_path / "both" / "lstm", "lstm", trials=4)
    make_study(tmp_path / "more" / "mlp", trials=3)
    (tmp_path / "both" / "families.json").write_text(json.dumps({"families": ["mlp", "lstm"], "options": {}}))
    studies = load_studies(tmp_path / "both", tmp_path / "more" / "mlp")
    assert [study.name for study in studies.studies] == ["both/mlp", "lstm", "more/mlp"]
    assert studies.trials["study"].value_counts().to_dict() == {"both/mlp": 5, "lstm": 4, "more/mlp": 3}
    assert studies.trials["param.readout"].isna().sum() == 8  # only recurrent networks have one
    assert studies.trials["param.learning_rate"].dtype == "Float64"
    assert [model.metrics["score"] for model in studies.models] == sorted(
        (model.metrics["score"] for model in studies.models), reverse=True
    )
    with pytest.raises(UserError, match="holds several: mlp, lstm"):
        load_study(tmp_path / "both")
    assert len(load_studies(tmp_path / "both", tmp_path / "both" / "mlp").studies) == 2  # once is enough


def test_models_are_the_chosen_one_and_the_recipes(mlp: Path) -> None:
    models = load_study(mlp).models
    assert [model.chosen for model in models] == [True, False, False, False]
    assert {model.name for model in models[1:]} == {"mlp-genre-ce", "mlp-genre-hinge", "mlp-genre-kl"}
    assert models[0].name.startswith("mlp trial ")
    assert len(models[0].predictions) == 90 and models[0].changes == ""


def test_a_recipe_that_was_chosen_is_there_once(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", trials=3)  # the published recipes only
    models = load_study(folder).models
    assert [(model.name, model.chosen) for model in models if model.trial == 0] == [("mlp-genre-ce", True)]
    assert len(models) == 3


def damaged(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)


def test_what_is_no_study_is_said(mlp: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold study\.json"):
        load_study(tmp_path)
    with pytest.raises(UserError, match=r"must hold study\.json"):
        load_studies(tmp_path / "nowhere")
    with pytest.raises(UserError, match="At least one study"):
        load_studies()
    with pytest.raises(UserError, match="such as s3://bucket/prefix"):
        load_study("nonsense://x/y")
    copy = tmp_path / "copy"
    shutil.copytree(mlp, copy)
    damaged(copy, "epochs.jsonl", "[}\n")
    with pytest.raises(UserError, match=r"line 1 of .*epochs\.jsonl"):
        load_study(copy)
    damaged(copy, "epochs.jsonl", "")
    damaged(copy, "study.json", "{}")
    with pytest.raises(UserError, match="must be whole"):
        load_study(copy)
    damaged(copy, "study.json", "[1")
    with pytest.raises(UserError, match="must be JSON"):
        load_study(copy)


def test_loading_needs_neither_torch_nor_ray(mlp: Path) -> None:
    code = (
        "import sys; from analysis import load_study; "
        f"assert len(load_study({str(mlp)!r}).models) == 4; "
        "found = {'torch', 'ray', 'optuna'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
