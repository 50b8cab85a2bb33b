"""What must hold of a study whatever happened to it, worked out from its journal and from the trace of its epochs."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

from search.engine import Decision, Engine, State
from search.records import SPEC, Journal, Row, read_journal
from search.study import StudySpec
from tests.faults import family
from trainables import data, loop
from trainables.config import TrialConfig
from trainables.files import read_json

VOLATILE = ("seq", "time", "epoch_seconds", "memory_bytes", "gpu_share", "trainable_parameters", "node")


@dataclass(frozen=True)
class Tally:
    """What a study came to. `repeated` is how many epochs were begun more than once; `violations` must be empty."""

    ends: Counter[str]
    epochs: int
    begun: int
    repeated: int
    violations: tuple[str, ...]


def tally(directory: Path, trace: list[Row], before: Iterable[dict[str, bytes]] = ()) -> Tally:
    """Counts, and what is wrong. `before` are the journal's files as they were at earlier times."""
    spec, rows = StudySpec.from_json(read_json(directory / SPEC)), read_journal(directory)
    begun = Counter((row["width"], row["epoch"]) for row in trace if row["what"] == "begun")
    ends = [row for row in rows if row["event"] == "ended"]
    return Tally(
        ends=Counter(row["state"] for row in ends),
        epochs=sum(row["event"] == "epoch" for row in rows),
        begun=begun.total(),
        repeated=begun.total() - len(begun),
        violations=(
            *_ended(spec, rows),
            *_counted_once(rows),
            *_kept(directory, before),
            *_trained_before_known(rows, trace),
            *_as_undisturbed(spec, rows),
            *_as_decided(spec, rows),
        ),
    )


def undisturbed(spec: StudySpec, directory: Path) -> None:
    """The same study on one worker, with nobody to disturb it and without Ray."""
    engine = Engine(spec, Journal(directory))
    while trial := engine.next_trial():
        for report in _reports(spec.config(trial.params, trial.baseline, trial.seed)):
            if engine.report(trial.number, report) is not Decision.CONTINUE:
                break
    engine.journal.close()


def history(directory: Path) -> list[Row]:
    """The journal without what differs from run to run, and without its sessions."""
    rows = (row for row in read_journal(directory) if "session" not in row["event"])
    return [{name: value for name, value in row.items() if name not in VOLATILE} for row in rows]


def _ended(spec: StudySpec, rows: list[Row]) -> list[str]:
    """Every started trial ended, once and not in failure, and all were started."""
    started = [row["trial"] for row in rows if row["event"] == "started"]
    ended = [row["trial"] for row in rows if row["event"] == "ended"]
    failed = [f"trial {r['trial']} failed: {r['reason']}" for r in rows if r.get("state") == State.FAILED]
    whole = started == list(range(spec.trials)) and sorted(ended) == started
    return failed + ([] if whole else [f"started {started}, ended {sorted(ended)} of {spec.trials}"])


def _counted_once(rows: list[Row]) -> list[str]:
    """The epochs of each trial are 1, 2, 3 …"""
    seen: Counter[int] = Counter()
    found = []
    for row in rows:
        if row["event"] == "epoch":
            seen[row["trial"]] += 1
            if row["epoch"] != seen[row["trial"]]:
                found.append(f"trial {row['trial']}: epoch {row['epoch']} in place of {seen[row['trial']]}")
    return found


def _kept(directory: Path, before: Iterable[dict[str, bytes]]) -> list[str]:
    """What was written stays, byte for byte."""
    now = {path.name: path.read_bytes() for path in directory.glob("*.jsonl")}
    return [f"{name} was changed" for files in before for name, was in files.items() if not now[name].startswith(was)]


def _trained_before_known(rows: list[Row], trace: list[Row]) -> list[str]:
    """No epoch that the journal has is trained again: only what was in flight is."""
    widths = {row["trial"]: row["params"]["width"] for row in rows if row["event"] == "started"}
    known = {(widths[row["trial"]], row["epoch"]): row["time"] for row in rows if row["event"] == "epoch"}
    late = [
        r for r in trace if r["what"] == "begun" and r["time"] > known.get((r["width"], r["epoch"]), r["time"]) + 0.05
    ]
    return [f"epoch {row['epoch']} of width {row['width']} was begun again after it was in the journal" for row in late]


def _as_undisturbed(spec: StudySpec, rows: list[Row]) -> list[str]:
    """Each epoch's scores are those of the same trial trained without interruption."""
    trials = {row["trial"]: row for row in rows if row["event"] == "started"}
    found = []
    for number, trial in trials.items():
        mine = [row for row in rows if row["event"] == "epoch" and row["trial"] == number]
        wanted = _reports(spec.config(trial["params"], trial["baseline"], trial["seed"]))
        for row, report in zip(mine, wanted, strict=False):
            if other := [n for n, value in report.items() if n not in VOLATILE and row[n] != value]:
                found.append(f"trial {number} epoch {row['epoch']}: {other} differ from the undisturbed trial's")
    return found


def _as_decided(spec: StudySpec, rows: list[Row]) -> list[str]:
    """Proposals and decisions are those of one process that hears the same reports in the same order."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(spec, Journal(Path(folder)))
        for row in rows:
            if row["event"] == "started":
                engine.next_trial()
            elif row["event"] == "epoch":
                report = {name: value for name, value in row.items() if name not in ("seq", "time", "event", "trial")}
                del report["rung"], report["decision"]
                engine.report(row["trial"], report)
            elif row["event"] == "ended":
                engine.fail(row["trial"], row["reason"])
        again = history(Path(folder))
        engine.journal.close()
    mine = [{n: v for n, v in row.items() if n not in VOLATILE} for row in rows if "session" not in row["event"]]
    if again == mine:
        return []
    first = next((i for i, (a, b) in enumerate(zip(again, mine, strict=False)) if a != b), min(len(again), len(mine)))
    return [f"row {first} is {mine[first : first + 1]}, one process would have written {again[first : first + 1]}"]


def _reports(config: TrialConfig) -> list[Row]:
    """All reports of a trial that nothing interrupts."""
    return _trained(family.undisturbed(config))


@cache
def _trained(config: TrialConfig) -> list[Row]:
    inputs = data.trial_data(config.data, config.features, torch.device("cpu"))
    return [asdict(report) for report in loop.train(config, inputs)]
