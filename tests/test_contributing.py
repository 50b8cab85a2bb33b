"""CONTRIBUTING's recipe for a new family, followed to the letter in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILE = re.compile(r"^\d\. `([\w/]+\.py)`.*?```python\n(.*?)```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^ {7}\.venv/bin/python (.*)$", re.MULTILINE)
LIMIT_SECONDS = 300

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with the files that the recipe shows."""
    for name in ("analysis", "search", "spaces", "trainables", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    section = TEXT.partition("## Adding a family")[2].partition("\n## ")[0]
    files = dict(FILE.findall(section))
    assert set(files) == {"spaces/gru.py", "trainables/models/gru.py"}
    for name, content in files.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(content)
    return tmp_path


def test_the_recipe_holds_its_contract_and_searches(project: Path, tiny_corpus: Path, cache: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project), "ETUDE_CACHE": str(cache)}

    def run(*arguments: str) -> str:
        found = subprocess.run(
            [sys.executable, *arguments],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
        return found.stdout

    contract, search = (command.split() for command in COMMAND.findall(TEXT))
    passed = re.search(r"(\d+) passed", run(*contract, "-p", "no:cacheprovider", "-m", "not slow"))
    assert passed and int(passed[1]) >= 10, "the contract ran over the new family"
    said = run(*search, "--data", f"nsynth:{tiny_corpus}", "--storage", str(project / "studies"))
    assert "gated recurrent units" in run("-c", "import spaces; print(spaces.load('gru').title)")
    assert "Chosen by its tune score" in said
    assert (project / "studies" / "gru-corpus" / "best" / "model.safetensors").exists()
