"""Leads over seeds, computed as worked by hand, and what cannot be compared."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.analysis.made import make_study
from tests.conftest import ROOT

# Class a has the groups g and h with two clips each, c one group of two, b none at all.
TRUE = ["a", "a", "a", "a", "c", "c"]
GROUPS = ["g", "g", "h", "h", "i", "i"]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks/seeds.py"))


def runs(module: dict[str, Any], *predicted: str) -> Any:
    """A model of as many seeds, with the letters that each predicts."""
    tables = []
    for letters in predicted:
        table = pd.DataFrame({"name": range(6), "group": GROUPS, "true": TRUE, "predicted": list(letters)})
        tables.append(table.assign(p_a=0.5, p_b=0.3, p_c=0.2))
    return module["Runs"]("model", True, {}, tables)


def test_a_lead_is_the_mean_over_seeds_and_over_the_classes_that_there_are(module: dict[str, Any]) -> None:
    one, other = runs(module, "aaaacc", "aaaacc"), runs(module, "aabbcc", "aaaabb")
    # Class a: 1 against the mean of 1/2 and 1; class c: 1 against the mean of 1 and 0.
    gain, low, high = module["lead"](one, other)
    assert gain == pytest.approx((0.25 + 0.5) / 2)
    assert low == 0 and gain < high <= 1
    assert module["lead"](other, one)[0] == pytest.approx(-gain)


def test_its_interval_draws_seeds(module: dict[str, Any]) -> None:
    """All clips of a seed are alike, so that nothing but the seeds drawn makes a difference."""
    one, other = runs(module, "aaaacc"), runs(module, "aaaacc", "bbbbbb")
    assert module["lead"](one, other) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(("changed", "words"), [({"split_seed": 5}, "of one split"), ({"task": "source"}, "one task")])
def test_what_cannot_be_compared_is_refused_in_a_sentence(changed: dict[str, Any], words: str, tmp_path: Path) -> None:
    studies = [make_study(tmp_path / name, trials=1, baselines=False) for name in ("mine", "other")]
    file = studies[1] / "best" / "config.json"
    record = json.loads(file.read_text())
    record["config"]["data"] |= changed
    file.write_text(json.dumps(record))
    command = [sys.executable, "benchmarks/seeds.py", *map(str, studies)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
