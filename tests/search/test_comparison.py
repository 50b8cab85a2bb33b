"""Several families under one name: equal parts, one cluster, one leaderboard, resumable as a whole."""

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

import spaces
from search import comparison, options
from search.comparison import KEPT, describe_leaderboard, leaderboard
from search.progress import Terminal
from search.records import EPOCHS, FAMILIES, SPEC, TRIALS, locked, read_rows
from tests.analysis.made import make_study
from tests.conftest import ROOT
from trainables.errors import UserError

LIMIT_SECONDS = 240


def parsed(*arguments: str) -> options.Options:
    found = options.parse(list(arguments))
    assert found
    return found


@pytest.fixture
def given(tmp_path: Path, tiny_corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Options for families on the tiny corpus, with studies in a temporary folder."""
    monkeypatch.setenv("ETUDE_CACHE", str(cache))

    def make(*arguments: str) -> options.Options:
        return parsed("--storage", str(tmp_path), "--data", f"nsynth:{tiny_corpus}", *arguments)

    return make


def settled(given: options.Options) -> tuple[Path, options.Options, list[comparison.Settled]]:
    return comparison.settle(given, lambda *_: None)


def test_what_asks_for_several_families() -> None:
    assert comparison.asked(parsed("--space", "all"))
    assert comparison.asked(parsed("--space", "lstm,mlp"))
    assert not comparison.asked(parsed("--space", "lstm"))
    assert not comparison.asked(parsed("--baseline", "lstm-2018"))


def test_all_are_all_families_with_equal_trials_and_parts_of_the_budget(given: Any, tmp_path: Path) -> None:
    arguments = ("--space", "all", "--weights", "none", "--trials", "5", "--budget", "80m")
    root, _, studies = settled(given(*arguments))
    assert root == tmp_path / "all-corpus"
    assert [spec.space.name for _, spec, _, _ in studies] == list(spaces.names())
    assert {(spec.trials, spec.max_epochs, own.budget) for own, spec, _, _ in studies} == {(5, 27, 600.0)}
    assert [directory for _, _, directory, _ in studies] == [root / name for name in spaces.names()]
    assert len({spec.data for _, spec, _, _ in studies}) == 1, "the same clips in the same splits"
    assert not root.exists(), "nothing is written before all is checked"


def test_a_wish_concerns_the_families_that_have_the_parameter(given: Any) -> None:
    _, _, studies = settled(given("--space", "lstm,mlp", "--fix", "layers=2"))
    assert {spec.space.name: spec.fixed for _, spec, _, _ in studies} == {"lstm": ("layers=2",), "mlp": ()}
    with pytest.raises(UserError, match=r"--fix must name a parameter .* Did you mean layers\?"):
        settled(given("--space", "lstm,mlp", "--fix", "layer=2"))


def test_what_is_recorded_means_the_same_from_another_folder(
    given: Any, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_corpus.parent)
    arguments = ("--space", "lstm,resnet50", "--data", f"nsynth:{tiny_corpus.name}", "--weights", "none")
    _, recorded, _ = settled(given(*arguments))
    assert (recorded.data, recorded.weights) == (f"nsynth:{tiny_corpus}", "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--space", "lstm,blsmt"), r"Did you mean blstm\?"),
        (("--space", "all", "--baseline", "lstm-2018"), "Leave one out"),
        (("--space", "lstm,blstm", "--resume", "--name", "none"), "needs the --name of a comparison"),
        (("--space", "lstm,blstm", "--grace-epochs", "30"), "30 > 27"),
        (("--space", ",", "--trials", "2"), "The space must be one of"),
    ],
)
def test_mistakes(given: Any, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settled(given(*arguments))


def test_a_taken_name_and_a_resume_with_other_families_are_refused(given: Any, tmp_path: Path) -> None:
    before = given("--space", "lstm,blstm", "--trials", "7", "--fix", "layers=2")
    kept = {name: getattr(before, name) for name in KEPT}
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / FAMILIES).write_text(json.dumps({"families": ["lstm", "blstm"], "options": kept}))
    with pytest.raises(UserError, match=r"exists\. Go on with it with --resume"):
        settled(given("--space", "lstm,blstm", "--name", "two"))
    for other in ("lstm,mlp", "all"):
        with pytest.raises(UserError, match="keeps to its families, lstm, blstm"):
            settled(given("--space", other, "--name", "two", "--resume"))
    assert settled(given("--space", "lstm, blstm", "--name", "two", "--resume"))[0] == tmp_path / "two"
    again = parsed("--storage", str(tmp_path), "--name", "two", "--resume")
    assert comparison.asked(again)
    _, resumed, studies = settled(again)
    assert (resumed.trials, resumed.fix, resumed.data) == (7, ("layers=2",), before.data)
    assert [(spec.space.name, spec.trials, spec.fixed) for _, spec, _, _ in studies] == [
        ("lstm", 7, ("layers=2",)),
        ("blstm", 7, ("layers=2",)),
    ]


def test_what_a_killed_process_left_of_a_study_that_had_not_begun_is_no_obstacle(given: Any, tmp_path: Path) -> None:
    before = given("--space", "lstm,blstm", "--trials", "7")
    kept = {name: getattr(before, name) for name in KEPT}
    (tmp_path / "two" / "lstm").mkdir(parents=True)
    (tmp_path / "two" / FAMILIES).write_text(json.dumps({"families": ["lstm", "blstm"], "options": kept}))
    (tmp_path / "two" / "lstm" / TRIALS).touch()
    again = parsed("--storage", str(tmp_path), "--name", "two", "--resume")
    assert [spec.trials for _, spec, _, _ in settled(again)[2]] == [7, 7]
    (tmp_path / "two" / "lstm" / "thesis.txt").write_text("do not touch")
    with pytest.raises(UserError, match="It holds no study"):
        settled(again)
    assert (tmp_path / "two" / "lstm" / "thesis.txt").exists()
    (tmp_path / "two" / "lstm" / TRIALS).write_text("{}\n")
    with pytest.raises(UserError, match=r"study\.json must be there, but it is missing in .*lstm, which holds trials"):
        settled(again)
    assert (tmp_path / "two" / "lstm" / TRIALS).exists()


@pytest.mark.parametrize("content", ["", "[]", "3", '{"families": ["lstm"]}', '{"families": 3, "options": {}}'])
def test_a_record_that_is_none_is_refused_in_a_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / FAMILIES).write_text(content)
    given = parsed("--resume", "--name", "two", "--storage", str(tmp_path))
    with pytest.raises(UserError, match=r"families\.json must be readable, but .* is not \(.*Restore it from a copy"):
        comparison.settle(given, lambda *_: None)


def test_a_comparison_is_resumed_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / FAMILIES).write_text('{"families": ["lstm", "mlp"], "options": {}}')
    base = ("--resume", "--name", "two", "--storage", str(tmp_path))
    with pytest.raises(UserError, match=r"a comparison of families as a whole, and two is one\. Leave --space"):
        options.settle(parsed(*base, "--space", "lstm"), lambda *_: None)
    with pytest.raises(UserError, match="--baseline runs one recipe alone, but two is a comparison of families"):
        comparison.settle(parsed(*base, "--baseline", "lstm-2018"), lambda *_: None)


@pytest.mark.parametrize("trained", [False, True])
def test_what_a_refused_resume_asked_for_stays_only_where_it_was_trained_with(
    trained: bool, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("--space", "lstm,mlp", "--trials", "2", "--no-baselines", "--name", "two")
    root, options_, studies = settled(given(*settings))
    monkeypatch.setattr("search.session.running_ray", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("search.summary.describe", lambda *_: "")
    screen = Terminal(io.StringIO(), Console(file=io.StringIO()))

    def stopped(own: Any, spec: Any, directory: Path, *_: Any) -> dict[str, Any]:
        directory.mkdir()
        (directory / SPEC).write_text(json.dumps(spec.to_json()))
        return {"state": "interrupted"}

    monkeypatch.setattr("search.session.run_session", stopped)
    assert comparison.run(root, options_, studies, screen)["state"] == "interrupted"

    def refused(own: Any, spec: Any, directory: Path, *_: Any) -> dict[str, Any]:
        (directory / EPOCHS).write_text("a row" if trained else "")
        raise UserError("no machine has 4 GPUs")

    monkeypatch.setattr("search.session.run_session", refused)
    root, options_, studies = settled(given("--resume", "--name", "two", "--trials", "9", "--gpus-per-trial", "4"))
    with pytest.raises(UserError, match="no machine"):
        comparison.run(root, options_, studies, screen)
    kept = json.loads((root / FAMILIES).read_text())["options"]
    assert (kept["trials"], kept["gpus_per_trial"]) == ((9, 4.0) if trained else (2, None))


def test_one_process_at_a_time_runs_a_comparison(given: Any) -> None:
    root, options_, studies = settled(given("--space", "lstm,mlp", "--name", "two"))
    screen = Terminal(io.StringIO(), Console(file=io.StringIO()))
    with locked(root), pytest.raises(UserError, match="another is running two"):
        comparison.run(root, options_, studies, screen)
    assert not (root / FAMILIES).exists(), "what another process runs is left as it is"
    (root / FAMILIES).write_text("{}")
    with pytest.raises(UserError, match=r"another process has begun .*two meanwhile"):
        comparison.run(root, options_, studies, screen)


def row(family: str, name: str, tune: float, **changes: Any) -> dict[str, Any]:
    scores = {f"{split}_balanced_accuracy": tune for split in ("tune", "valid", "test")}
    return {
        "family": family,
        "name": name,
        "chosen": not name.startswith("old"),
        "changes": "",
        **scores,
        "test_interval_low": tune - 0.1,
        "test_interval_high": tune + 0.1,
        "trainable_parameters": 201_575_018,
        "training_seconds": 4_000.0,
        "prediction_ms": 123.4,
        **changes,
    }


def test_a_leaderboard_names_every_model_once_and_compares_the_first_with_each(tmp_path: Path) -> None:
    """One family's best is a recipe of its own, the other's is not."""
    make_study(tmp_path / "mlp", trials=4, height=lambda params: 0.95 if params["loss"] == "hinge" else 0.3)
    make_study(tmp_path / "lstm", "lstm", trials=3, height=lambda params: 0.5 if params["batch_size"] == 32 else 0.4)
    summaries: dict[str, dict[str, Any]] = {}
    for family in ("lstm", "mlp"):
        best = tmp_path / family / "best"
        recipes = {file.parent.name: json.loads(file.read_text()) for file in best.glob("baselines/*/metrics.json")}
        chosen = json.loads((best / "metrics.json").read_text())
        summaries[family] = {"best": chosen, "baselines": recipes, "wall_seconds": 10.0, "trials": {"asked": 4}}
    failed = {"best": None, "baselines": {}, "wall_seconds": 1.0, "trials": {"asked": 4}}
    board = leaderboard(tmp_path, {**summaries, "cnn1d": failed}, ["Test holds little."])
    assert board["warnings"] == ["Test holds little."]
    unequal = leaderboard(tmp_path, {**summaries, "cnn1d": {**failed, "trials": {"asked": 9}}})
    assert unequal["warnings"] == [
        "These searches are not equal, they were given different numbers of trials: lstm 4, mlp 4, cnn1d 9."
    ]
    assert (board["failed"], board["wall_seconds"]) == (["cnn1d"], 21.0)
    first = board["rows"][0]
    assert (first["family"], first["name"], first["chosen"]) == ("mlp", "mlp-genre-hinge", True)
    scores = {row["name"]: row["test_balanced_accuracy"] for row in board["rows"]}
    tune = [row["tune_balanced_accuracy"] for row in board["rows"]]
    assert tune == sorted(tune, reverse=True)
    (lstm,) = (row["name"] for row in board["rows"] if row["chosen"] and row["family"] == "lstm")
    others = {"mlp-genre-ce", "mlp-genre-kl", "lstm-2018", "lstm-2022"} - {lstm}
    assert set(scores) == {"mlp-genre-hinge", lstm, *others} and len(board["rows"]) == len(scores)
    assert set(board["first_against"]) == {"lstm"} and set(board["first_against_baselines"]) == others
    for name, found in {lstm: board["first_against"]["lstm"], **board["first_against_baselines"]}.items():
        assert found["difference"] == pytest.approx(scores["mlp-genre-hinge"] - scores[name])
        assert found["interval"][0] < found["difference"] < found["interval"][1]
        assert found["groups"] == 6


def test_the_leaderboard_fits_80_columns_and_says_what_was_changed() -> None:
    board = {
        "state": "finished",
        "directory": "/studies/all",
        "rows": [
            row("googlenet", "trial 31 (default)", 0.7),
            row("googlenet", "old-googlenet-genre", 0.4, changes="picture_size 512 → 64"),
        ],
        "first_against_baselines": {"old": {"difference": 0.5, "interval": None, "groups": 3}},
        "first_against": {"mlp": {"difference": 0.1, "interval": [0.02, 0.2], "groups": 9}},
        "warnings": ["Test holds 11 groups for 4 classes, but of some class 2: its intervals are too narrow."],
        "failed": ["vgg16"],
        "wall_seconds": 5_000.0,
    }
    console = Console(file=io.StringIO(), width=80)
    console.print(describe_leaderboard(board))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "202M" in text and "0.60…0.80" in text
    assert "old-googlenet-genre *" in text and "* old-googlenet-genre: picture_size 512 → 64" in text
    assert "On test googlenet is above mlp: +0.100 (95 % interval +0.020 to +0.200)." in text
    assert "On test googlenet is +0.500 from old, no interval: some class has a single" in text
    assert "vgg16 has no trial at full length." in text
    assert "Warning: test holds 11 groups for 4 classes" in text


# --- as a user runs it -------------------------------------------------------------------------


def rows(root: Path) -> dict[str, list[dict[str, Any]]]:
    """What happened in each family's study, without what differs from run to run."""
    volatile = ("seq", "time", "epoch_seconds", "memory_bytes", "node")
    return {
        f"{path.parent.name}/{name}": [
            {k: v for k, v in found.items() if k not in volatile}
            for found in read_rows(path.parent / name)
            if not found["event"].startswith("session")
        ]
        for path in sorted(root.glob(f"*/{SPEC}"))
        for name in (TRIALS, EPOCHS)
    }


@pytest.mark.slow
def test_two_families_interrupted_in_the_second_and_resumed(tmp_path: Path, tiny_corpus: Path, cache: Path) -> None:
    environment = {**os.environ, "ETUDE_CACHE": str(cache)}
    small = ("--trials", "2", "--max-epochs", "3", "--grace-epochs", "1", "--concurrency", "1", "--no-baselines")
    base = [sys.executable, "search/run.py", "--space", "lstm,mlp", "--data", f"nsynth:{tiny_corpus}", *small]

    def command(name: str) -> list[str]:
        return [*base, "--storage", str(tmp_path), "--name", name]

    def run(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )

    whole = run(command("whole"))
    assert whole.returncode == 0, whole.stderr
    board = json.loads((tmp_path / "whole" / "leaderboard.json").read_text())
    assert {row["family"] for row in board["rows"] if row["chosen"]} == {"lstm", "mlp"}
    assert list(board["first_against"]) == [board["rows"][-1]["family"]]
    table = pd.read_csv(tmp_path / "whole" / "leaderboard.csv")
    assert table["tune_balanced_accuracy"].is_monotonic_decreasing
    assert {"training_seconds", "prediction_ms", "trainable_parameters", "test_macro_f1"} <= set(table)
    assert (table["training_seconds"] > 0).all() and (table["prediction_ms"] > 0).all()
    assert "Sorted by tune" in whole.stdout

    process = subprocess.Popen(
        command("broken"), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + LIMIT_SECONDS
    while not read_rows(tmp_path / "broken" / "mlp" / EPOCHS):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130, err
    assert json.loads((tmp_path / "broken" / "mlp" / "summary.json").read_text())["state"] == "interrupted"
    resume = [line.strip() for line in out.splitlines() if "--resume" in line][-1]
    assert "--name broken" in resume
    resumed = run([sys.executable, *shlex.split(resume)[1:], "--json"])
    assert resumed.returncode == 0, resumed.stderr
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    again = json.loads(resumed.stdout)
    unlike = ("training_seconds", "prediction_ms")
    plain = [[{k: v for k, v in row.items() if k not in unlike} for row in b["rows"]] for b in (again, board)]
    assert plain[0] == plain[1]
