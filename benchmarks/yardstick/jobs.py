"""What one run of a tool is to do, as a file that its processes read, and the epochs that they note."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GRACE_EPOCHS, REDUCTION_FACTOR, SEARCH_EPOCHS = 1, 3, 9


@dataclass(frozen=True)
class Size:
    """How large trials are: what is fixed of the family's space, epochs of each, and how many there are."""

    fixed: tuple[str, ...]
    epochs: int
    trials: int = 64


_ALL = ("early_end=off", "seconds=1")
_BLSTM = (*_ALL, "frame_ms=30..60", "width_1=32..96", "width_2=32..96", "layers=1,2")
_CNN1D = (*_ALL, "resample_hz=4000", "first_stride=2,4", *(f"channels_{layer}=8..32" for layer in range(1, 6)))
_MLP = (*_ALL, "input=waveform", "hidden_1=256..1024", "batch_size=16,32")
# With the demo corpus a trial takes about one second of a core, two to three, and seven or more.
SIZES = {
    "blstm": {"small": Size(_BLSTM, 3), "medium": Size(_BLSTM, 7), "large": Size(_BLSTM, 30)},
    "cnn1d": {"small": Size(_CNN1D, 4), "medium": Size(_CNN1D, 10), "large": Size(_CNN1D, 44)},
    "mlp": {"small": Size(_MLP, 3), "medium": Size(_MLP, 7), "large": Size(_MLP, 30)},
}


@dataclass(frozen=True)
class Job:
    """The same list of trials for every tool.

    `data` is a data configuration as JSON, `points` the parameters of the trials and `seeds` theirs. With `stopping`
    each tool ends trials early by its own successive halving; without, every trial trains all `epochs`.
    """

    family: str
    fixed: list[str]
    data: dict[str, Any]
    clip_seconds: float
    points: list[dict[str, Any]]
    seeds: list[int]
    epochs: int
    stopping: bool
    slots: int
    folder: str

    @classmethod
    def read(cls, path: str | Path) -> "Job":
        """The job that a file holds."""
        return cls(**json.loads(Path(path).read_text()))

    @property
    def file(self) -> Path:
        """Where the job lies."""
        return Path(self.folder) / "job.json"

    @property
    def events(self) -> Path:
        """Where epochs are noted."""
        return Path(self.folder) / "events.jsonl"

    def write(self) -> None:
        """Puts the job in its place."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(asdict(self)))

    def number(self, params: dict[str, Any]) -> int:
        """Which trial of the list has these parameters."""
        return self.points.index(params)

    def note(self, trial: int, epoch: int, score: float, when: float | None = None) -> None:
        """Notes that a trial's epoch was done, now or at another time, with its best tune score so far."""
        line = json.dumps({"time": when or time.time(), "trial": trial, "epoch": epoch, "score": score}) + "\n"
        with self.events.open("a") as file:
            file.write(line)

    def noted(self) -> list[dict[str, Any]]:
        """All epochs noted so far, in the order of their times."""
        rows = [json.loads(line) for line in self.events.read_text().splitlines()] if self.events.exists() else []
        return sorted(rows, key=lambda row: row["time"])


def in_slots(script: str, job: Job) -> None:
    """Runs a script once per slot, as separate processes that get the slot's number, and waits for them."""
    running = [subprocess.Popen([sys.executable, script, str(job.file), str(slot)]) for slot in range(job.slots)]
    if any(process.wait() for process in running):
        raise SystemExit(1)


def best_so_far(rows: list[dict[str, Any]]) -> Iterator[tuple[float, float]]:
    """When the best score of all trials rose, and to what."""
    best = -1.0
    for row in rows:
        if row["score"] > best:
            best = row["score"]
            yield row["time"], best


def final_scores(rows: list[dict[str, Any]]) -> dict[int, float]:
    """The last score of each trial."""
    ordered = sorted(rows, key=lambda row: (row["trial"], row["epoch"]))
    return {trial: list(group)[-1]["score"] for trial, group in itertools.groupby(ordered, lambda row: row["trial"])}
