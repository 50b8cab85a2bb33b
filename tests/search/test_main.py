"""The main command as a user runs it: a process of its own, killed, interrupted, resumed."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.records import EPOCHS, SPEC, TRIALS, read_rows

ROOT = Path(__file__).parent.parent.parent
LIMIT_SECONDS = 240

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path: Path, tiny_corpus: Path) -> Callable[..., list[str]]:
    """A search of the LSTM space on the tiny corpus, one trial at a time."""

    def make(*more: str, name: str = "study") -> list[str]:
        options = ("--space", "lstm", "--data", f"nsynth:{tiny_corpus}", "--no-baselines", "--concurrency", "1")
        small = ("--trials", "4", "--max-epochs", "4", "--grace-epochs", "1", "--reduction-factor", "2")
        place = ("--storage", str(tmp_path), "--name", name)
        return [sys.executable, "search/run.py", *options, *small, *place, *more]

    return make


@pytest.fixture
def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "ETUDE_CACHE": str(cache)}


def run(arguments: list[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )


def stopped_after(
    lines: int, number: int, arguments: list[str], environment: dict[str, str], directory: Path
) -> "subprocess.CompletedProcess[str]":
    """Runs the command and sends it a signal once the journal holds so many epochs."""
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + LIMIT_SECONDS
    while len(read_rows(directory / EPOCHS)) < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the study does not get on"
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT_SECONDS)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def rows(directory: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one file without what differs from run to run: sessions, clock, memory."""
    volatile = ("seq", "time", "epoch_seconds", "memory_bytes", "node")
    kept = [row for row in read_rows(directory / name) if not row["event"].startswith("session")]
    return [{k: v for k, v in row.items() if k not in volatile} for row in kept]


def test_killed_and_interrupted_studies_end_like_the_undisturbed_one(
    tmp_path: Path, command: Callable[..., list[str]], environment: dict[str, str]
) -> None:
    """kill -9 of the driver, Ctrl-C and a termination, each followed by --resume."""
    whole = run(command(name="whole"), environment)
    assert whole.returncode == 0, whole.stderr
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", whole.stdout), "no control characters where there is no terminal"
    assert re.search(
        r"^\d\d:\d\d:\d\d trial 0 \(default\) epoch 1/4 tune 0\.\d{4} best 0\.\d{4}$", whole.stdout, re.MULTILINE
    )
    assert "Chosen by its tune score: trial" in whole.stdout
    assert str(tmp_path / "whole") in whole.stdout
    metrics = json.loads((tmp_path / "whole" / "best" / "metrics.json").read_text())
    prepared = Path(environment["ETUDE_CACHE"]) / "prepared"
    assert any(prepared.glob("*.npy")), "workers share their inputs"

    for lines, number, code in ((1, signal.SIGKILL, -9), (3, signal.SIGINT, 130), (4, signal.SIGTERM, 130)):
        directory = tmp_path / number.name
        broken = stopped_after(lines, number, command(name=number.name), environment, directory)
        assert broken.returncode == code, broken.stderr
        taken = len(read_rows(directory / EPOCHS))
        assert not (directory / "best" / "metrics.json").exists()
        if code == 130:
            resume = next(line.strip() for line in broken.stdout.splitlines() if "--resume" in line)
            arguments = [sys.executable, *shlex.split(resume)[1:]]
        else:
            arguments = [sys.executable, "search/run.py", "--resume", "--name", number.name, "--storage", str(tmp_path)]
        resumed = run([*arguments, "--concurrency", "1", "--json"], environment)
        assert resumed.returncode == 0, resumed.stderr
        for file in (TRIALS, EPOCHS):
            assert rows(directory, file) == rows(tmp_path / "whole", file), f"{file} after {number.name}"
        assert len(read_rows(directory / EPOCHS)) > taken
        summary = json.loads(resumed.stdout)
        assert summary["best"]["splits"] == metrics["splits"]
        assert summary["state"] == "finished"

    over = run([*arguments, "--json"], environment)
    assert json.loads(over.stdout)["best"] == summary["best"], "a finished study resumes to its summary"

    changed = run([*arguments, "--max-epochs", "5"], environment)
    assert changed.returncode == 1
    assert "max_epochs was 4 and is 5" in changed.stderr
    taken_name = run(command(name="whole"), environment)
    assert taken_name.returncode == 1
    assert "--resume" in taken_name.stderr


def test_the_budget_ends_a_study_that_a_larger_one_goes_on_with(
    tmp_path: Path, command: Callable[..., list[str]], environment: dict[str, str]
) -> None:
    short = run(command("--budget", "1s", "--json", "--trials", "2"), environment)
    assert short.returncode in (0, 2), short.stderr
    found = json.loads(short.stdout)
    assert found["trials"]["running"] + found["trials"]["to_start"] > 0
    longer = run(command("--budget", "1h", "--json", "--trials", "2", "--resume"), environment)
    assert longer.returncode == 0, longer.stderr
    found = json.loads(longer.stdout)
    assert found["trials"]["running"] == found["trials"]["to_start"] == 0
    assert len([row for row in read_rows(tmp_path / "study" / TRIALS) if row["event"] == "session"]) == 2


def test_a_published_recipe_runs_alone_with_its_settings(
    tmp_path: Path, tiny_corpus: Path, environment: dict[str, str]
) -> None:
    arguments = [sys.executable, "search/run.py", "--baseline", "blstm-2022-source", "--data", f"nsynth:{tiny_corpus}"]
    done = run([*arguments, "--max-epochs", "2", "--storage", str(tmp_path), "--json"], environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["task"] == "source"
    assert found["best"]["baseline"] == "blstm-2022-source"
    assert list(found["baselines"]) == ["blstm-2022-source"]
    study = json.loads((Path(found["directory"]) / SPEC).read_text())
    assert study["classes"] == ["acoustic", "electronic"]
    config = json.loads((Path(found["directory"]) / "best" / "config.json").read_text())["config"]
    assert (config["training"]["batch_size"], config["training"]["adam_epsilon"]) == (1024, 1e-7)


def test_ray_s_memory_monitor_costs_one_trial_and_not_the_study(
    tmp_path: Path, tiny_corpus: Path, environment: dict[str, str]
) -> None:
    """Ray's own monitor, set just above what is in use now, ends the worker that allocates without end."""
    import psutil

    memory = psutil.virtual_memory()
    threshold = 1 - (memory.available - 4_000_000_000) / memory.total
    if memory.available < 8_000_000_000:
        pytest.skip("needs 8 GB of free memory")
    script = tmp_path / "study.py"
    script.write_text(_MEMORY_STUDY.format(corpus=str(tiny_corpus), directory=str(tmp_path / "study")))
    monitored = {
        "RAY_memory_usage_threshold": f"{threshold:.4f}",
        "RAY_memory_monitor_refresh_ms": "50",
        "PYTHONPATH": str(ROOT),
    }
    done = run([sys.executable, str(script)], {**environment, **monitored})
    assert done.returncode == 0, done.stderr[-3000:]
    states = json.loads(done.stdout.splitlines()[-1])
    assert {fault for fault, _, _ in states} == {"none", "memory"}
    for fault, state, reason in states:
        assert state == ("complete" if fault == "none" else "failed")
        assert fault == "none" or "ended by Ray's memory monitor" in reason


_MEMORY_STUDY = """
import json
from pathlib import Path
from search.cluster import cluster
from search.tuning import run_trials
from search.slots import Resources
from search.engine import Engine
from search.records import Journal
from search.study import StudySpec
from tests import faulty
from trainables import corpora
from trainables.config import DataConfig

name = "nsynth:{corpus}"
data = DataConfig(name, corpora.open_corpus(name).digest, "family", False, "official", 0)
space = faulty.space(("none", "memory"))
spec = StudySpec("m", space, data, 4, 3, 3, 3, 0, 1, False)
engine = Engine(spec, Journal(Path("{directory}")))
with cluster(None):
    run_trials(engine, Resources(1, 0.0, 2, memory_bytes=10**15), lambda: False)
print(json.dumps([(t.params["fault"], t.state, t.reason) for t in engine.trials]))
"""
