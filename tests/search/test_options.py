"""User mistakes: the rule, what came, what to do, before anything expensive."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
import ray
import soundfile
import torch
from rich.console import Console

import spaces
from search import adapt, disk, options, places, preflight, session, versions
from search.cluster import cluster
from search.command import say_corpus
from search.progress import Terminal
from search.session import KEPT, as_before, run_session, write_study
from search.study import StudySpec, commit
from spaces.domains import Float
from tests.conftest import ROOT
from trainables.errors import UserError

Settle = Callable[..., tuple[StudySpec, Path, options.Corpus]]


def parsed(*arguments: str) -> options.Options:
    found = options.parse(list(arguments))
    assert found
    return found


@pytest.fixture
def settle(tmp_path: Path, tiny_corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Settle:
    """Settles options on the tiny corpus with studies in a temporary folder."""
    monkeypatch.setenv("ETUDE_CACHE", str(cache))

    def run(*arguments: str, data: str | None = f"nsynth:{tiny_corpus}") -> tuple[StudySpec, Path, options.Corpus]:
        given = ("--storage", str(tmp_path / "studies"), *arguments)
        return options.settle(parsed(*given, *(("--data", data) if data else ())), lambda *_: None)

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--space", "blsmt"), "space must be one of .*blstm.* but is 'blsmt'. Did you mean blstm?"),
        (("--baseline", "blstm-2020"), "baseline must be one of .*but is 'blstm-2020'. Did you mean blstm-2022?"),
        ((), "neither --space nor --baseline came"),
        (("--space", "lstm", "--baseline", "lstm-2022"), "Leave one out"),
        (("--space", "lstm", "--task", "mood"), "--task must be family or source for nsynth:"),
        (("--space", "lstm", "--grace-epochs", "30"), "30 > 27"),
        (("--space", "lstm", "--reduction-factor", "1"), "--reduction-factor must be at least 2"),
        (("--space", "lstm", "--gpus-per-trial", "1.5"), "fraction of one GPU or a whole number of them, but is 1.5"),
        (("--space", "lstm", "--gpus-per-trial", "-1"), "but is -1"),
        (("--space", "lstm", "--gpus-per-trial", "nan"), "but is nan"),
        (("--space", "lstm", "--gpus-per-trial", "inf"), "but is inf"),
        (("--space", "lstm", "--cpus-per-trial", "9999"), "--cpus-per-trial is 9999 and this machine has"),
        (("--space", "lstm", "--name", "n" * 300), "up to 100 letters"),
        (("--baseline", "lstm-2018", "--trials", "4"), "Leave --trials out"),
        (("--space", "lstm", "--name", "../escape"), "--name must be up to 100 letters"),
        (("--space", "lstm", "--name", "a/b"), "--name must be up to 100 letters"),
        (("--space", "lstm", "--name", "日" * 100), "fewer where letters take several bytes"),
        (("--space", "lstm", "--resume"), "--resume needs the --name"),
        (("--space", "lstm", "--resume", "--name", "none-such"), "there is no 'none-such'"),
    ],
)
def test_mistakes_are_named_with_the_rule_and_what_came(
    settle: Settle, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?").replace("(", r"\(")):
        settle(*arguments)


@pytest.mark.parametrize("data", ["gtzam:here", "nsynth", "nsynth:", "demo:x", "csv:", "folder"])
def test_unknown_corpora_are_refused(settle: Settle, data: str) -> None:
    with pytest.raises(UserError, match=r"--data must be one of demo, demo-genre, nsynth:PATH, .* but is"):
        settle("--space", "lstm", data=data)


def test_a_path_that_is_missing_or_holds_something_else_is_named(
    settle: Settle, tmp_path: Path, tiny_corpus: Path
) -> None:
    with pytest.raises(UserError, match="nowhere"):
        settle("--space", "lstm", data=f"nsynth:{tmp_path / 'nowhere'}")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"examples\.json"):
        settle("--space", "lstm", data=f"nsynth:{tmp_path / 'other'}")
    for near in (tiny_corpus.parent, tiny_corpus / "nsynth-train"):
        with pytest.raises(UserError, match=rf"Give {tiny_corpus}\.$"):
            settle("--space", "lstm", data=f"nsynth:{near}")


@pytest.mark.parametrize(
    "arguments",
    [("--trials", "0"), ("--trials", "many"), ("--budget", "soon"), ("--frobnicate",), ("--seed", "4294967296")],
)
def test_what_no_option_can_be_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(click.ClickException):
        options.parse(["--space", "lstm", *arguments])


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("45m", 2700), ("2h", 7200), ("1.5h", 5400), ("1d", 86400)])
def test_budgets_are_durations(text: str, seconds: float) -> None:
    assert parsed("--budget", text).budget == seconds


def test_storage_beyond_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--storage must be a folder or an address such as s3://bucket/prefix"):
        places.storage(parsed("--storage", "ftp://host/studies"))
    with pytest.raises(UserError, match="names no bucket"):
        places.storage(parsed("--storage", "s3://"))
    assert places.storage(parsed("--storage", f"file://{tmp_path}")) == tmp_path


def test_defaults_and_names(settle: Settle, tmp_path: Path) -> None:
    spec, directory, corpus = settle("--space", "lstm")
    assert (spec.trials, spec.max_epochs, spec.rungs, spec.seed) == (32, 27, (3, 9, 27), 0)
    assert directory == tmp_path / "studies" / "lstm-corpus"
    assert corpus.split.summary["train"] == {"clips": 27, "groups": 9}
    directory.mkdir(parents=True)
    assert settle("--space", "lstm")[1].name == "lstm-corpus-2"
    assert settle("--space", "lstm", "--name", directory.name)[1] == directory, "an empty folder is as good as none"
    (directory / "thesis.txt").write_text("do not touch")
    with pytest.raises(UserError, match="It holds no study; choose another --name"):
        settle("--space", "lstm", "--name", directory.name)
    assert settle("--space", "lstm", "--max-epochs", "2")[0].rungs == (2,)


def test_a_baseline_brings_its_own_settings(settle: Settle) -> None:
    spec, directory, _ = settle("--baseline", "lstm-2018")
    assert (spec.trials, spec.max_epochs, directory.name) == (1, 20, "lstm-2018-corpus")
    assert [baseline.name for baseline in spec.baselines] == ["lstm-2018"]
    assert settle("--baseline", "blstm-2022-source")[2].split.classes == ("acoustic", "electronic")


def test_seconds_beyond_the_corpus_are_not_searched(settle: Settle) -> None:
    spec, _, _ = settle("--space", "lstm")
    assert str(next(param.domain for param in spec.space.params if param.name == "seconds")) == "1 … 1"


def test_an_existing_name_needs_resume_and_resume_says_what_changed(
    settle: Settle, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, directory, corpus = settle("--space", "lstm", "--name", "mine")
    write_study(directory, spec, corpus)
    with pytest.raises(UserError, match=r"mine exists\. Go on with it with --resume"):
        settle("--space", "lstm", "--name", "mine")

    again = ("--resume", "--name", "mine")
    assert settle(*again, data=None)[0] == spec
    assert settle(*again, "--trials", "50", data=None)[0].trials == 50
    for change, message in (
        (("--space", "blstm"), "the space was 'lstm' and is 'blstm'"),
        (("--max-epochs", "30"), "max_epochs was 27 and is 30"),
        (("--task", "source"), "task was 'family' and is 'source'"),
        (("--seed", "1"), "seed was 0 and is 1"),
        (("--no-baselines",), "with_baselines was True and is False"),
    ):
        with pytest.raises(UserError, match=message):
            settle(*again, *change, data=None)

    other = tmp_path / "other"
    shutil.copytree(tiny_corpus, other)
    moved = settle(*again, data=f"nsynth:{other}")[0]
    assert moved == dataclasses.replace(spec, data=dataclasses.replace(spec.data, corpus=f"nsynth:{other}"))
    params = spec.space.default
    identities = {study.config(params, None, 0).identity for study in (spec, moved)}
    assert len(identities) == 1, "checkpoints hold for a copy of the corpus"
    shutil.copytree(directory, directory.with_name("renamed"))
    assert settle("--resume", "--name", "renamed", data=None)[0] == dataclasses.replace(spec, name="renamed")
    victim = next((other / "nsynth-valid" / "audio").iterdir())
    victim.write_bytes(next(path for path in victim.parent.iterdir() if path != victim).read_bytes())
    with pytest.raises(UserError, match=r"the recordings or labels of nsynth:.*other are others"):
        settle(*again, data=f"nsynth:{other}")

    edited = spec.space.narrowed("learning_rate", Float(0.5, 0.6))
    monkeypatch.setattr(spaces, "load", lambda name: edited)
    with pytest.raises(UserError, match=r"the range of learning_rate was 0.0001 … 0.03 \(log\) and is 0.5 … 0.6"):
        settle(*again, data=None)


def test_a_study_record_that_cannot_be_read_is_named(settle: Settle, tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "broken"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text('{"name": "bro')
    with pytest.raises(UserError, match=r"study.json must be readable, but .*broken"):
        settle("--resume", "--name", "broken")


def test_a_study_that_cannot_begin_leaves_nothing_behind(settle: Settle, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    given = ("--space", "lstm", "--name", "mine", "--address", address)
    spec, directory, corpus = settle(*given)
    screen = Terminal(sys.stdout, Console(file=sys.stdout, soft_wrap=True))
    for _ in range(2):
        with pytest.raises(UserError, match="nothing answers at"):
            run_session(parsed(*given), spec, directory, corpus, screen)
        assert not directory.exists()

    write_study(directory, spec, corpus)
    for more, words in ((("--resume",), "nothing answers at"), ((), "another process has begun")):
        with pytest.raises(UserError, match=words):
            run_session(parsed(*given, *more), spec, directory, corpus, screen)
        assert (directory / "study.json").exists(), "what was there before stays"


@pytest.mark.parametrize("fixes", [(), ("--fix", "batch_size=64")])
def test_what_a_study_restricted_by_itself_nobody_has_to_ask_for_again(
    fixes: tuple[str, ...], settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.data.choose_device", lambda: torch.device("cpu"))
    spec, directory, corpus = settle("--space", "cnn2d", "--name", "mine", *fixes)
    assert spec.fixed == (*fixes[1:], adapt.SMALL_PICTURES)
    write_study(directory, spec, corpus)
    again = ("--resume", "--name", "mine")
    monkeypatch.setattr("trainables.data.choose_device", lambda: torch.device("cuda"))
    assert settle(*again, data=None)[0] == settle(*again, *fixes, data=None)[0] == spec
    with pytest.raises(UserError, match="fixed was"):
        settle(*again, "--fix", "batch_size=32", data=None)


def test_a_study_elsewhere_is_looked_at_without_its_corpus(settle: Settle, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, directory, corpus = settle("--space", "lstm", "--name", "mine")
    write_study(directory, spec, corpus)
    monkeypatch.setattr(options, "_DECODE_IN_DRY_RUN_BYTES", 0)
    assert settle("--resume", "--name", "mine", "--dry-run", data=None)[0] == spec


def test_a_recipe_resumed_still_runs_once(settle: Settle) -> None:
    spec, directory, corpus = settle("--baseline", "lstm-2018", "--name", "mine")
    write_study(directory, spec, corpus)
    with pytest.raises(UserError, match=r"runs one recipe once, but --trials is 5\. Leave --trials out"):
        settle("--resume", "--name", "mine", "--trials", "5", data=None)


@pytest.mark.parametrize("name", ["/x/\udcff\U0001f600", "/x/\udcff"])
def test_a_path_that_is_no_text_is_refused_before_anything_is_read(name: str, settle: Settle) -> None:
    with pytest.raises(UserError, match="--data must be readable text"):
        settle("--space", "lstm", data=f"folder:{name}")
    with pytest.raises(UserError, match="--weights must be readable text"):
        settle("--space", "resnet50", "--weights", name)


def test_what_was_passed_over_is_named_where_it_is_missing(settle: Settle, tmp_path: Path) -> None:
    for place, seed in (("wind", 0), ("deep/inner", 10)):
        (tmp_path / "own" / place).mkdir(parents=True)
        for take in range(8):
            noise = np.random.default_rng(seed + take).integers(-9000, 9000, 3000).astype(np.int16)
            soundfile.write(tmp_path / "own" / place / f"{take}.wav", noise, 22_050)
    with pytest.raises(UserError, match=r"only 'wind' .* 1 folder without audio of its own was left out .*'deep'"):
        settle("--space", "lstm", data=f"folder:{tmp_path / 'own'}")


def test_a_path_that_cannot_be_looked_at_is_refused(settle: Settle, tmp_path: Path) -> None:
    for data in (f"folder:{tmp_path / ('n' * 300)}", "folder:~nobody-of-that-name/x"):
        with pytest.raises(UserError, match="must name"):
            settle("--space", "lstm", data=data)
    with pytest.raises(UserError, match="there is no file"):
        settle("--space", "resnet50", "--weights", str(tmp_path / ("n" * 300)))


def test_resuming_takes_over_what_is_left_out(settle: Settle) -> None:
    rows = [{"event": "session", "options": dict.fromkeys(KEPT) | {"budget": 7200.0, "concurrency": 2}}, {"event": "x"}]
    found = as_before(parsed("--resume", "--name", "mine", "--concurrency", "1"), rows)
    assert (found.budget, found.concurrency, found.address) == (7200.0, 1, None)
    rows[0]["options"] |= {"address": "head:6379"}
    assert as_before(parsed("--resume", "--name", "mine"), rows).address == "head:6379"
    assert as_before(parsed("--resume", "--name", "mine", "--address", "local"), rows).address is None


@pytest.mark.parametrize("trained", [False, True])
def test_what_a_refused_session_asked_for_is_not_taken_over_unless_it_trained(trained: bool) -> None:
    asked = [dict.fromkeys(KEPT) | {"gpus_per_trial": share, "concurrency": 2} for share in (0.5, 4.0)]
    rows: list[dict[str, Any]] = [
        {"event": "session", "options": asked[0]},
        {"event": "epoch"},
        {"event": "session ended"},
        {"event": "session", "options": asked[1]},
        *([{"event": "epoch"}] if trained else []),
        {"event": "session ended", "refused": True},
    ]
    found = as_before(parsed("--resume", "--name", "mine"), rows)
    assert (found.gpus_per_trial, found.concurrency) == (4.0 if trained else 0.5, 2)


def test_a_study_goes_on_where_a_trial_takes_more_cores_than_this_machine_has(settle: Settle) -> None:
    """It goes back to its cluster, which its journal knows."""
    more = str((os.cpu_count() or 1) + 1)
    with pytest.raises(UserError, match="--cpus-per-trial"):
        settle("--space", "lstm", "--name", "mine", "--cpus-per-trial", more)
    spec, directory, corpus = settle("--space", "lstm", "--name", "mine", "--cpus-per-trial", more, "--address", "a:1")
    write_study(directory, spec, corpus)
    assert settle("--resume", "--name", "mine")[0].cpus_per_trial == int(more)


def test_a_study_from_elsewhere_does_not_decide_what_is_imported(settle: Settle) -> None:
    spec, directory, corpus = settle("--space", "lstm", "--name", "mine")
    write_study(directory, spec, corpus)
    record = json.loads((directory / "study.json").read_text())
    record["space"]["network"] = "studies.mine.model"
    (directory / "study.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"must be one of the project's own, but that of .* is 'studies.mine.model'"):
        settle("--resume", "--name", "mine")


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("s3:/bucket/x", "must be a folder or an address such as"),
        (f"/tmp/{'x' * 300}", "cannot be .*File name too long"),
    ],
)
def test_a_storage_that_cannot_be_one_is_refused_in_a_sentence(storage: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        places.storage(parsed("--storage", storage))


def test_an_address_with_a_password_is_not_repeated() -> None:
    with pytest.raises(UserError, match="--storage must be a plain address") as caught:
        places.storage(parsed("--storage", "S3://me:secret@bucket/x"))
    assert "secret" not in str(caught.value)
    with pytest.raises(UserError, match="is neither"):
        places.storage(parsed("--storage", "s3://[x"))


def test_a_study_record_keeps_what_it_began_with(settle: Settle) -> None:
    spec, directory, corpus = settle("--space", "lstm", "--name", "mine")
    write_study(directory, spec, corpus)
    first = json.loads((directory / "study.json").read_text())
    (directory / "study.json").write_text(json.dumps({**first, "commit": "abc", "created": "then"}))
    write_study(directory, dataclasses.replace(spec, trials=99), corpus)
    again = json.loads((directory / "study.json").read_text())
    assert again == {**first, "commit": "abc", "created": "then", "trials": 99}


def test_a_study_knows_its_commit_also_where_there_is_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image says it in a variable."""
    monkeypatch.setenv("ETUDE_COMMIT", "0123456789ab")
    assert commit() == "0123456789ab"
    monkeypatch.setenv("ETUDE_COMMIT", "")
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_a_study_record_holds_what_a_reader_needs(settle: Settle) -> None:
    spec, directory, corpus = settle("--space", "blstm", "--name", "mine")
    write_study(directory, spec, corpus)
    record = json.loads((directory / "study.json").read_text())
    assert StudySpec.from_json(record) == spec
    assert record["classes"] == ["bass", "organ", "reed"]
    groups = [set(record["splits"][name]["group_names"]) for name in ("train", "tune", "valid")]
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 12
    assert record["versions"]["optuna"].startswith("5.")
    assert record["metric"] == {"name": "tune_balanced_accuracy", "mode": "max"}
    assert (directory / "quarantine.csv").read_text().startswith("split,name,path,reason")


def test_bad_recordings_are_listed_in_the_study_and_counted_on_screen(
    settle: Settle, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus_folder = tmp_path / "spoiled"
    shutil.copytree(tiny_corpus, corpus_folder)
    cut, stereo, *_ = sorted((corpus_folder / "nsynth-train" / "audio").iterdir())
    cut.write_bytes(cut.read_bytes()[:1000])
    samples, rate = soundfile.read(stereo, dtype="int16")
    soundfile.write(stereo, np.stack([samples, samples], axis=1), rate, subtype="PCM_16")

    _, directory, corpus = settled = settle("--space", "lstm", "--name", "spoiled", data=f"nsynth:{corpus_folder}")
    write_study(directory, settled[0], corpus)
    listed = pd.read_csv(directory / "quarantine.csv")
    assert list(listed["name"]) == [cut.stem]
    assert "truncated" in listed["reason"][0] or "promises" in listed["reason"][0], listed["reason"][0]
    assert list(pd.read_csv(directory / "repairs.csv")["name"]) == [stereo.stem]
    assert sum(row["clips"] for row in corpus.split.summary.values()) == 59

    screen = Terminal(sys.stdout, Console(file=sys.stdout, soft_wrap=True))
    say_corpus(corpus, screen, dry_run=False)
    shown = capsys.readouterr().out
    assert "Recordings: 1 left out, 1 repaired; quarantine.csv" in shown
    with pytest.raises(UserError, match=cut.stem):
        settle("--space", "lstm", "--strict", data=f"nsynth:{corpus_folder}")


def test_splits_depend_on_the_seed_and_the_corpus_alone(settle: Settle) -> None:
    def tuned(*arguments: str) -> set[str]:
        split = settle(*arguments)[2].split
        return set(split.groups[split.rows["tune"]])

    assert tuned("--space", "lstm") == tuned("--space", "blstm", "--trials", "3", "--max-epochs", "9")
    assert any(tuned("--space", "lstm") != tuned("--space", "lstm", "--seed", str(seed)) for seed in range(1, 5))


def test_versions_outside_the_tested_window_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    versions.check()
    monkeypatch.setattr(versions.metadata, "version", lambda name: {"ray": "2.61.0", "optuna": "5.0.0"}[name])
    with pytest.raises(UserError, match=r"ray must be at least 2.60 and below 2.61.* but 2.61.0 is installed"):
        versions.check()
    monkeypatch.setattr(versions.metadata, "version", lambda name: {"ray": "2.60.1", "optuna": "4.9.0"}[name])
    with pytest.raises(UserError, match=r"optuna must be at least 5.0 .* but 4.9.0"):
        versions.check()


def test_the_window_is_that_of_the_project_file() -> None:
    import tomllib

    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert "ray[tune]>=2.60,<2.61" in required
    assert "optuna>=5,<6" in required


def test_a_ray_that_does_not_start_in_time_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nMore words.")  # so Ray itself does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    message = r"but did not \(The current node timed out during startup\)\. A machine that is busy"
    with pytest.raises(UserError, match=message), cluster(None):
        pass


def test_nobody_at_the_address_is_said_at_once() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(UserError, match=f"nothing answers at {address}"), cluster(address):
        pass


def test_prepared_inputs_are_reckoned_with_where_they_take_of_the_same_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**10, 0, 10**10))
    monkeypatch.setenv("ETUDE_CACHE", "/proc/cache")
    disk.check_disk(tmp_path, 9 * 10**9)
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "not" / "yet"))
    disk.check_disk(tmp_path, 7 * 10**9)
    with pytest.raises(UserError, match=r"needs about 11\.7 GB of disk, but .* has 10\.0 GB free"):
        disk.check_disk(tmp_path, 9 * 10**9)


def test_too_little_disk_is_refused_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1_000_000))
    with pytest.raises(UserError, match=r"needs about 1.2 GB of disk, but .* has 0.0 GB free"):
        disk.check_disk(tmp_path / "not" / "yet", 1_000_000_000)


def test_a_disk_with_room_for_all_that_memory_holds_is_not_reckoned_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settle: Settle
) -> None:
    """To count the largest network's weights takes Torch; no checkpoint is larger than its trial's memory."""
    spec, _, corpus = settle("--space", "lstm", "--trials", "50", "--cpus-per-trial", "1")
    monkeypatch.setattr(disk, "share_of_memory", lambda share: int(2e9 * share))
    monkeypatch.setenv("ETUDE_CACHE", "/proc/cache")  # a disk of its own
    kept = 3 + len(spec.baselines)
    limit = 2 * 3 * 10**9 // 2 + kept * 10**9 // 2 + 200_000_000
    for free, roomy in ((limit, True), (limit - 1, False)):
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(10**12, 0, free))
        assert disk.is_roomy(tmp_path, spec, slots=2) is roomy
    parameters = preflight.most_parameters(spec, corpus)
    needed = (2 * 28 + kept * 4) * parameters
    assert disk.checkpoint_bytes(spec, parameters, slots=2) == needed < limit
    session._check_disk(tmp_path, spec, corpus, 2)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, needed))
    with pytest.raises(UserError, match=r"needs about .* GB of disk"):
        session._check_disk(tmp_path, spec, corpus, 2)


def dry_run(*arguments: str, cache: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "search/run.py", "--dry-run", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cache), "ETUDE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    ("share_gb", "fixes", "advice"),
    [
        (
            6.5,
            (),
            r"needs about 8\.\d GB and has 6\.5 GB\. It fits with --fix batch_size=16 or --fix picture_size=224\.$",
        ),
        (1.2, ("picture_size=224",), r"It fits with --fix picture_size=48 or --cpus-per-trial 3\.$"),
        (
            4.0,
            ("batch_size=256", "picture_size=224"),
            r"It fits with --fix batch_size=\d+ or --fix picture_size=128 or",
        ),
        (0.5, ("batch_size=32",), r"has 0\.5 GB\. It needs a machine with more memory\.$"),
    ],
)
def test_a_recipe_that_cannot_fit_is_refused_with_advice_that_holds(
    settle: Settle, monkeypatch: pytest.MonkeyPatch, share_gb: float, fixes: tuple[str, ...], advice: str
) -> None:
    """On a machine of four cores, where a trial has the memory of as many as it is given."""
    wishes = [word for fix in fixes for word in ("--fix", fix)]
    spec, _, corpus = settle("--baseline", "cnn2d-genre", *wishes)
    monkeypatch.setattr(preflight, "cores", lambda: 4)
    cores = 1 if fixes and share_gb > 1 else 9
    monkeypatch.setattr(preflight, "local_share_bytes", lambda n: int(1e9 * share_gb * (n if cores == 1 else 1)))
    with pytest.raises(UserError, match=advice) as caught:
        preflight.check_fits(spec, corpus)
    for wish in re.findall(r"--fix (\S+=\d+)", str(caught.value)):
        kept = [word for fix in fixes if fix.partition("=")[0] != wish.partition("=")[0] for word in ("--fix", fix)]
        preflight.check_fits(settle("--baseline", "cnn2d-genre", *kept, "--fix", wish)[0], corpus)
    for cpus in re.findall(r"--cpus-per-trial (\d)", str(caught.value)):
        preflight.check_fits(dataclasses.replace(spec, cpus_per_trial=int(cpus)), corpus)


def test_a_network_that_cannot_be_built_is_refused_before_anything_starts(settle: Settle) -> None:
    wishes = ("pool=16", "seconds=1", "first_kernel=128", "resample_hz=2000")
    fixes = [word for wish in wishes for word in ("--fix", wish)]
    spec, path, corpus = settle("--baseline", "cnn1d-small", *fixes)
    message = r"cnn1d cannot be built for inputs of 1 × \d+ \(.*too small\)\. Choose other values with --fix"
    with pytest.raises(UserError, match=message):
        preflight.check_fits(spec, corpus)
    with pytest.raises(UserError, match=message):
        preflight.plan(spec, corpus, parsed("--baseline", "cnn1d-small"), path)
    searched = dataclasses.replace(spec, only=None)
    found = preflight._measure(spec.config(dict(spec.baselines[0].params), "cnn1d-small", 0), corpus, 10**10)
    assert (found["fits"], found["memory_bytes"]) == (False, 0)
    assert "cannot be built" in found["impossible"]
    assert preflight.most_parameters(searched, corpus) > 0


def test_split_fix_and_weights_are_checked_and_kept(settle: Settle, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--split must be official for nsynth:.*but is 'random'"):
        settle("--space", "lstm", "--split", "random")
    with pytest.raises(UserError, match="--weights is for families that begin with a pretrained network"):
        settle("--space", "lstm", "--weights", "imagenet")
    assert settle("--space", "lstm", "--weights", "none")[0].weights == ""
    with pytest.raises(UserError, match=r"no-such\.pth"):
        settle("--space", "vgg16", "--weights", str(tmp_path / "no-such.pth"))
    arguments = ("--space", "resnet50", "--weights", "none", "--fix", "picture_size=32", "--name", "kept")
    spec, directory, corpus = settle(*arguments)
    assert (spec.weights, spec.fixed, spec.data.split) == ("none", ("picture_size=32",), "official")
    directory.mkdir(parents=True)
    write_study(directory, spec, corpus)
    again, _, _ = settle("--resume", "--name", "kept", data=None)
    assert again == spec
    with pytest.raises(UserError, match="keeps to what it began with"):
        settle("--resume", "--name", "kept", "--fix", "picture_size=64", data=None)


@pytest.mark.parametrize(("cuda", "fixed"), [(False, ("picture_size=32,48,64",)), (True, ())])
def test_without_a_gpu_pictures_are_small_unless_told_otherwise(
    settle: Settle, monkeypatch: pytest.MonkeyPatch, cuda: bool, fixed: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    spec, _, _ = settle("--space", "cnn2d")
    assert spec.fixed == fixed
    assert spec.baselines[0].params["picture_size"] == (512 if cuda else 64)
    assert settle("--space", "cnn2d", "--fix", "picture_size=128")[0].fixed == ("picture_size=128",)
    assert settle("--space", "cnn2d", "--fix", "batch_size=64")[0].fixed == ("batch_size=64", *fixed)
    assert settle("--space", "lstm")[0].fixed == ()
    assert settle("--baseline", "cnn2d-genre")[0].fixed == (), "alone, a recipe is exact"


def test_baselines_of_another_corpus_run_on_this_one(settle: Settle) -> None:
    """Task and splits are this corpus', the recipe is the published one; alone it comes with a generated corpus."""
    spec, _, _ = settle("--baseline", "mlp-genre-hinge")
    assert (spec.data.task, spec.max_epochs, spec.only) == ("family", 25, "mlp-genre-hinge")
    given = parsed("--baseline", "mlp-genre-hinge")
    assert options.corpus_named(given, None, spec.baselines[0]) == "demo-genre"
    assert options.corpus_named(given, None, None) == "demo"


@pytest.mark.slow
def test_a_dry_run_says_it_all_and_starts_nothing(tiny_corpus: Path, cache: Path, tmp_path: Path) -> None:
    place = ("--storage", str(tmp_path / "studies"))
    done = dry_run(
        "--space", "blstm", "--data", f"nsynth:{tiny_corpus}", "--json", "--budget", "1h", *place, cache=cache
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["space"] == "blstm"
    assert found["data"] == f"nsynth:{tiny_corpus}"
    assert found["classes"] == ["bass", "organ", "reed"]
    assert found["rungs"] == [3, 9, 27]
    assert found["rung_table"] == [[3, 32], [9, 13], [27, 6]]
    assert found["splits"]["train"] == {"clips": 27, "groups": 9}
    assert found["splits"]["tune"] == {"clips": 9, "groups": 3}
    assert [row["name"] for row in found["baselines"]] == ["blstm-2022", "blstm-2018"]
    assert found["estimated_seconds"] > 0
    assert found["budget_epochs"] > 0
    assert min(found["disk_bytes"], found["memory_bytes"]) > 1_000_000
    assert found["disk_spare_bytes"] >= 200_000_000, "as the study asks for it"
    assert not (tmp_path / "studies").exists()

    words = dry_run("--baseline", "lstm-2018", "--data", f"nsynth:{tiny_corpus}", *place, cache=cache)
    assert words.returncode == 0, words.stderr
    assert "413,059" in words.stdout, "three classes instead of ten"
    assert "20 epochs" in re.sub(r"\s+", " ", words.stdout)


@pytest.mark.slow
def test_errors_are_one_line_and_exit_code_1(cache: Path, tmp_path: Path) -> None:
    done = dry_run("--space", "blsmt", cache=cache)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: The space must be one of")
    shown = dry_run("--space", "blsmt", "--debug", cache=cache)
    assert "Traceback" in shown.stderr


@pytest.mark.parametrize("to_start", [0, 1])
def test_torch_is_imported_beside_the_last_trials_and_before_ray_goes(
    to_start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray ends the process where another thread lets go of something of its after it was shut down."""
    begun, imported = threading.Event(), []

    def slowly(name: str) -> None:
        begun.set()
        time.sleep(0.3)
        imported.append(name)

    monkeypatch.setattr(session.importlib, "import_module", slowly)
    engine = SimpleNamespace(to_start=1)
    with session._torch_in_time(engine):
        assert not begun.wait(0.25), "not while there are trials to start"
        engine.to_start = to_start
        assert begun.wait(2 if to_start == 0 else 0.25) == (to_start == 0)
    assert imported == ["trainables.evaluate"] * (to_start == 0)
