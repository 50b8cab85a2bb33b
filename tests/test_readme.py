"""What README tells people to type works as it stands."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from search import options
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
INDENTED = [line.strip().split("#")[0].strip() for line in README.splitlines() if line.startswith("    ")]


def test_the_two_commands_stand_at_the_top() -> None:
    assert [line for line in INDENTED if line][:2] == ["make demo", "make test"]


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make (?:PYTHON=\S+ )?([.\w]+)`?", README)):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


def test_every_search_command_parses_and_every_option_in_the_table_exists() -> None:
    commands = [line for line in INDENTED if line.startswith("python search/run.py")]
    assert len(commands) >= 2
    for command in commands:
        assert options.parse(shlex.split(command)[2:])
    known = {name for parameter in options._command.params for name in parameter.opts}
    table = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `--")]
    named = set(re.findall(r"--[a-z-]+", " ".join(table)))
    assert named <= known
    assert known - named <= {"--help", "--dry-run", "--keep-synth-lead"}, "every option is explained"


@pytest.mark.slow
def test_the_demo_command_runs(tmp_path: Path, cache: Path) -> None:
    """The recipe of `make demo` itself, shortened."""
    shown = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    recipe = next(line for line in shown.splitlines() if "search/run.py" in line)
    python = ROOT / shlex.split(recipe)[0]
    assert python.exists(), "`make test` and `make demo` share one environment"
    shorter = ["--trials", "4", "--max-epochs", "1", "--no-baselines", "--storage", str(tmp_path), "--json"]
    done = subprocess.run(
        [*shlex.split(recipe), *shorter],
        cwd=ROOT,
        env={**os.environ, "ETUDE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["space"], found["data"], found["trials"]["complete"]) == ("blstm", "demo", 4)
    assert found["best"]["splits"]["test"]["clips"] > 100
