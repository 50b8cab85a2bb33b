"""Leads over random splits: computed as worked by hand, and from a finished study to its tables."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
RECIPES = {"mlp-genre-ce", "mlp-genre-hinge", "mlp-genre-kl"}


def table(*rows: tuple[str, str, float, int]) -> pd.DataFrame:
    """Clips as class, group, right, split."""
    found = pd.DataFrame(rows, columns=["true", "group", "right", "split"])
    return found.assign(name=[f"clip {number}" for number in range(len(found))])


def lead(one: pd.DataFrame, other: pd.DataFrame) -> str:
    return str(runpy.run_path(str(ROOT / "benchmarks/resplit.py"))["lead"](one, other))


def test_a_lead_is_the_mean_over_classes_of_clips_of_all_splits() -> None:
    one = table(("a", "g", 1.0, 0), ("a", "g", 1.0, 1), ("a", "g", 1.0, 1), ("b", "h", 1.0, 0), ("b", "h", 1.0, 1))
    # One of three clips of class a, none of class b: 1/3 and 0.
    other = one.assign(right=[0.0, 1.0, 1.0, 1.0, 1.0])
    assert lead(one, other).startswith("+0.167 (+0.000 … +0.500)")
    assert lead(other, one).startswith("-0.167 (-0.500 … ")


def test_its_interval_draws_groups_within_their_class() -> None:
    """Of class a every drawn group leads by 1, so only the two groups of b spread: none, one or both of them lead."""
    one = table(
        *(("a", f"a{n}", 1.0, n % 2) for n in range(4)), *(("b", f"b{n}", 1.0, s) for n in (0, 1) for s in (0, 1))
    )
    other = one.assign(right=[0.0] * 4 + [0.0, 0.0, 1.0, 1.0])
    assert lead(one, other) == "+0.750 (+0.500 … +1.000)"


def test_nothing_to_compare_is_said_so() -> None:
    assert lead(table(), table()) == "—"


def run(*command: str, cache: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "ETUDE_CACHE": str(cache)}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_a_finished_study_is_trained_again_on_other_splits(tiny_corpus: Path, cache: Path, tmp_path: Path) -> None:
    options = ("--trials", "4", "--max-epochs", "1", "--storage", str(tmp_path), "--name", "study")
    done = run("search/run.py", "--space", "mlp", "--data", f"nsynth:{tiny_corpus}", *options, cache=cache)
    assert done.returncode == 0, done.stderr
    found = run("benchmarks/resplit.py", str(tmp_path / "study"), "--splits", "2", cache=cache)
    assert found.returncode == 0, found.stderr
    rows = [line.strip("| ").split(" | ") for line in found.stdout.splitlines() if re.match(r"\| mlp", line)]
    models = {row[0] for row in rows if len(row) == 4}
    # Of a study whose best is a recipe, the recipes are all.
    assert RECIPES <= models <= {"mlp default", *RECIPES}
    scored, leads = rows[: len(models)], rows[len(models) :]
    for row in scored:
        each = [float(value) for value in row[3].split(", ")]
        assert len(each) == 2
        assert float(row[2].split(" ± ")[0]) == pytest.approx(sum(each) / 2, abs=1e-3)
    assert sorted(row[0].rstrip(" |") for row in leads) == sorted([*models, *models]), "over all groups, and some"
    found_leads = [row for row in leads if re.search(r"[+-]\d\.\d{3} \([+-]\d\.\d{3} … [+-]\d\.\d{3}\)", row[-1])]
    assert len(found_leads) == 2 * (len(models) - 1), "all but the chosen one's over itself"


def test_what_cannot_be_compared_is_refused_in_a_sentence(cache: Path, tmp_path: Path) -> None:
    refused = run("benchmarks/resplit.py", str(tmp_path / "nowhere"), cache=cache)
    assert refused.returncode == 1
    assert "nowhere" in refused.stderr and "Traceback" not in refused.stderr
    refused = run("benchmarks/resplit.py", str(tmp_path), "--splits", "1", cache=cache)
    assert refused.returncode == 2
    assert "--splits must be at least 2" in refused.stderr
