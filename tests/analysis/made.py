"""Studies made up by the tests, written as a search writes them, with known winners, importances and fronts."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

import spaces
from search.scheduler import Asha
from search.study import StudySpec
from spaces.domains import Params, Space
from trainables.config import DataConfig
from trainables.scoring import summarise

CLASSES = ("bass", "organ", "reed")
EPOCH_SECONDS = 10.0
START = 1_700_000_000.0

Height = Callable[[Params], float]


def by_learning_rate(params: Params) -> float:
    """A height in [0.1, 0.9] that depends on the learning rate, a little on the batch size, and on nothing else."""
    distance = abs(math.log10(float(params["learning_rate"])) + 2)  # decades from 1e-2
    return max(0.1, 0.9 - 0.4 * distance - 0.01 * math.log2(int(params["batch_size"]) / 32))


def curve(height: float, epoch: int) -> float:
    """A score that rises towards its height."""
    return height * (1 - math.exp(-epoch / 2))


def make_study(
    directory: Path,
    family: str = "mlp",
    *,
    trials: int = 30,
    max_epochs: int = 9,
    seed: int = 0,
    height: Height = by_learning_rate,
    classes: tuple[str, ...] = CLASSES,
    fails: Callable[[int], bool] = lambda trial: False,
    finished: bool = True,
    baselines: bool = True,
    corpus: str = "demo",
    clips: int = 10,
) -> Path:
    """Writes a study that one worker ran: published recipes first (never stopped), then the default, then random ones.

    A trial's score in epoch e is `curve(height(params), e)`. Trials for which `fails` holds diverge in their second
    epoch. Unless `finished`, the last trial still runs after one epoch, and nothing is scored.
    """
    space = spaces.load(family)
    spec = StudySpec(
        name=directory.name,
        space=space,
        data=DataConfig(corpus, "0" * 64, "family", False, "official", 0),
        trials=trials,
        max_epochs=max_epochs,
        grace_epochs=min(1, max_epochs),
        reduction_factor=3,
        seed=seed,
        cpus_per_trial=1,
        with_baselines=baselines,
    )
    directory.mkdir(parents=True)
    groups = {split: {"clips": clips * len(classes), "groups": 2 * len(classes), "group_names": []} for split in SPLITS}
    record = {
        "format": 1,
        **spec.to_json(),
        "metric": {"name": "tune_balanced_accuracy", "mode": "max"},
        "rungs": list(spec.rungs),
        "classes": list(classes),
        "splits": groups,
        "majority_share": dict.fromkeys(SPLITS, 1 / len(classes)),
        "quarantined": 0,
        "repaired": 0,
        "created": "2026-01-01T00:00:00+0000",
        "commit": "0123456789ab",
        "versions": {"python": "3.11.7"},
    }
    (directory / "study.json").write_text(json.dumps(record))
    (directory / "quarantine.csv").write_text("split,name,path,reason\n")
    rows = list(_rows(spec, height, fails, finished))
    for name, events in (
        ("trials.jsonl", ("session", "started", "ended", "session ended")),
        ("epochs.jsonl", ("epoch",)),
    ):
        text = "".join(json.dumps(row) + "\n" for row in rows if row["event"] in events)
        (directory / name).write_text(text)
    if finished:
        _score(directory, spec, rows, classes, clips)
    return directory


SPLITS = ("train", "tune", "valid", "test")


def points(space: Space, spec: StudySpec) -> list[tuple[Params, str | None, str]]:
    """What a random search tries: params, baseline, origin."""
    found: list[tuple[Params, str | None, str]] = [(dict(b.params), b.name, "published") for b in spec.baselines]
    found.append((dict(space.default), None, "default"))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.create_study(sampler=optuna.samplers.RandomSampler(spec.seed))
    while len(found) < spec.trials:
        found.append((space(sampler.ask()), None, "sampled"))
    return found[: spec.trials]


def _rows(spec: StudySpec, height: Height, fails: Callable[[int], bool], finished: bool) -> Any:
    asha = Asha(spec.rungs, spec.reduction_factor)
    clock, seq = START, 0

    def row(**fields: Any) -> dict[str, Any]:
        nonlocal seq
        seq += 1
        return {"seq": seq - 1, "time": round(clock, 3), **fields}

    yield row(event="session", pid=1, trials=spec.trials, options={})
    for number, (params, baseline, origin) in enumerate(points(spec.space, spec)):
        yield row(event="started", trial=number, params=params, baseline=baseline, origin=origin, seed=number)
        score, state = 0.0, "running"
        for epoch in range(1, spec.max_epochs + 1):
            clock += EPOCH_SECONDS
            failure = "train loss became nan in epoch 2" if epoch == 2 and fails(number) else None
            value = curve(height(params), epoch)
            score = score if failure else value
            rung = epoch if epoch in spec.rungs and not failure else None
            passes = failure is not None or asha.passes(epoch, score) or baseline is not None
            last = epoch == spec.max_epochs
            decision = "fail" if failure else "complete" if last else "continue" if passes else "stop"
            yield row(
                event="epoch", trial=number, epoch=epoch, score=score, best_epoch=epoch if not failure else epoch - 1,
                learning_rate=params["learning_rate"],
                **{
                    f"{split}_{metric}": None if failure else number_of
                    for split, ahead in (("train", 0.05), ("tune", 0.0))
                    for metric, number_of in (
                        ("loss", 2 - value - ahead), ("cross_entropy", 2 - value - ahead), ("accuracy", value + ahead),
                        ("balanced_accuracy", value + ahead), ("macro_f1", value + ahead),
                    )
                },
                failure=failure, ended=False, epoch_seconds=EPOCH_SECONDS - 1, trainable_parameters=1000 * (number + 1),
                memory_bytes=10**9 + number, node="127.0.0.1", rung=rung, decision=decision,
            )  # fmt: skip
            if not finished and number == spec.trials - 1:
                break
            state = {"fail": "failed", "complete": "complete", "stop": "pruned"}.get(decision, "running")
            if state != "running":
                yield row(event="ended", trial=number, state=state, reason=failure)
                break
    if finished:
        yield row(event="session ended", pid=1)


def predictions(accuracy: float, classes: tuple[str, ...], clips: int, seed: int = 0) -> pd.DataFrame:
    """Predictions right with a given probability: `clips` of each class in each split, in two groups a class."""
    rng = np.random.default_rng(seed)
    frames = []
    for split in ("tune", "valid", "test"):
        true = np.repeat(np.arange(len(classes)), clips)
        guess = np.where(rng.random(len(true)) < accuracy, true, rng.integers(0, len(classes), len(true)))
        logits = rng.normal(size=(len(true), len(classes)))
        logits[np.arange(len(true)), guess] += 3
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        names = np.array(classes)
        frame = pd.DataFrame(
            {
                "name": [f"{split}-{names[t]}-{n:03d}" for n, t in enumerate(true)],
                "split": split,
                "group": [f"{names[t]}-{n % 2}" for n, t in enumerate(true)],
                "true": names[true],
                "predicted": names[chances.argmax(1)],
            }
        )
        frames.append(frame.assign(**{f"p_{c}": chances[:, i].astype(np.float32) for i, c in enumerate(classes)}))
    return pd.concat(frames, ignore_index=True)


def _score(directory: Path, spec: StudySpec, rows: list[dict[str, Any]], classes: tuple[str, ...], clips: int) -> None:
    """`best/` as `search.finish` writes it."""
    ends = {row["trial"]: row["state"] for row in rows if row["event"] == "ended"}
    last = {row["trial"]: row for row in rows if row["event"] == "epoch"}
    started = {row["trial"]: row for row in rows if row["event"] == "started"}
    full = [trial for trial, state in ends.items() if state == "complete"]
    if not full:
        return
    winner = max(full, key=lambda trial: (last[trial]["score"], -trial))
    places = [
        (trial, directory / "best" / "baselines" / started[trial]["baseline"])
        for trial in full
        if started[trial]["baseline"]
    ]
    for trial, folder in [(winner, directory / "best"), *places]:
        folder.mkdir(parents=True, exist_ok=True)
        begun = started[trial]
        table = predictions(last[trial]["score"], classes, clips, seed=trial)
        table.to_parquet(folder / "predictions.parquet", index=False)
        published = next((b for b in spec.baselines if b.name == begun["baseline"]), None)
        metrics: dict[str, Any] = {
            "trial": trial,
            "baseline": begun["baseline"],
            "origin": begun["origin"],
            "score": last[trial]["score"],
            "best_epoch": last[trial]["best_epoch"],
            "epochs": last[trial]["epoch"],
            "trainable_parameters": last[trial]["trainable_parameters"],
            "training_seconds": 9.0 * last[trial]["epoch"],
            "prediction_ms": 0.5 + trial,
            "params": begun["params"],
            "changes": list(published.changes) if published else [],
            "splits": summarise(table),
        }
        config = {
            "config": {"family": spec.space.name, "data": asdict(spec.data)},
            "classes": list(classes),
            "sample_rate_hz": 16_000,
            "layers": [
                {"name": "layers.0", "kind": "Linear", "output_shape": [64], "parameters": 640, "trainable": 640},
                {"name": "layers.1", "kind": "ReLU", "output_shape": [64], "parameters": 0, "trainable": 0},
                {"name": "head", "kind": "Linear", "output_shape": [len(classes)], "parameters": 65, "trainable": 65},
            ],
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.json").write_text(json.dumps(metrics))
