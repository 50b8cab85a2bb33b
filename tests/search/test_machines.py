"""Studies on a real cluster whose machines come when there is work and go when there is none."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.autoscaling import autoscaling

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
TYPES = {
    "gpu": {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 2},
    "plain": {"resources": {"CPU": 3}, "max_workers": 1},
}
AS_IN_CLUSTER = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A head that runs nothing; up to two machines with a GPU and one with three cores come on demand."""
    with autoscaling(TYPES, max_workers=3, environment=AS_IN_CLUSTER) as found:
        yield found


def search(address: str, corpus: Path, cache: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "search/run.py", "--space", "mlp", "--data", f"nsynth:{corpus}", "--no-baselines"]
    return subprocess.run(
        [*command, "--max-epochs", "1", "--grace-epochs", "1", "--address", address, *options],
        cwd=ROOT,
        env={**os.environ, "ETUDE_CACHE": str(cache), "RAY_AUTH_TOKEN": "f" * 64},
        capture_output=True,
        text=True,
        timeout=600,
    )


_WATCH = """
import json, os, select, sys, ray
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Ray tells of unmet requests on standard output, whatever log_to_driver says
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
shapes = set()
while True:
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    shapes.add(json.dumps(sorted([int(node.get("CPU", 0)), int(node.get("GPU", 0))] for node in up)))
    asked = select.select([sys.stdin], [], [], 0.5)[0]
    if asked and (word := sys.stdin.readline()) == "now\\n":
        print(json.dumps(len(up)), file=answers, flush=True)
    elif asked:
        break
print(json.dumps(sorted(shapes)), file=answers, flush=True)
"""


class Watch:
    """Sees which machines are up all the time, from a process of its own."""

    def __init__(self, address: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WATCH, address],
            env={**os.environ, **AS_IN_CLUSTER},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def now(self) -> int:
        """How many machines are up."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("now\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self) -> list[list[list[int]]]:
        """Which sets of machines, as cores and GPUs, were up at a time."""
        try:
            said = self._process.communicate(timeout=60)[0]
            return [json.loads(shape) for shape in json.loads(said)]
        finally:
            self._process.kill()
            self._process.wait(timeout=30)


def test_what_no_machine_could_run_is_refused_at_once(
    address: str, tiny_corpus: Path, cache: Path, tmp_path: Path
) -> None:
    for options, words in (
        (("--gpus-per-trial", "2"), "--gpus-per-trial is 2 and the node with the most GPUs has 1"),
        (("--cpus-per-trial", "4"), "--cpus-per-trial is 4 and the node with the most cores has 3"),
        (("--cpus-per-trial", "2"), "none has the 2 cores and 1 GPU that one takes"),
    ):
        done = search(address, tiny_corpus, cache, "--trials", "1", "--storage", str(tmp_path), *options)
        assert done.returncode == 1
        assert words in done.stderr
        assert "Waiting" not in done.stdout
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


def test_machines_come_for_a_study_and_go_after_it(
    address: str, tiny_corpus: Path, cache: Path, tmp_path: Path
) -> None:
    watch = Watch(address)
    try:
        assert watch.now() == 1, "the head alone"
        done = search(address, tiny_corpus, cache, "--trials", "4", "--storage", str(tmp_path), "--name", "study")
        assert done.returncode == 0, done.stdout + done.stderr
        said = done.stdout.splitlines()
        waits = said.index("Waiting for a machine: none that is up has the 1 core and 1 GPU of a trial.")
        again = said.index("Trials run again.")
        started = [n for n, line in enumerate(said) if line.endswith("started")]
        assert len(started) == 4
        # Both machines with a GPU were asked for before there was any; the third trial waited for one of them.
        assert waits < again
        assert started[1] < again
        assert waits < started[2]
        for _ in range(120):
            if watch.now() == 1:
                break
            time.sleep(1)
        assert watch.now() == 1, "idle machines are let go"
    finally:
        shapes = watch.end()
    assert [[0, 0], [1, 1], [1, 1]] in shapes
    assert max(len(shape) for shape in shapes) == 3, "the machine without a GPU was not started for nothing"
