"""What a study will be and cost, said before it starts."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.engine import KEPT_TRIALS
from search.options import Corpus, Options
from search.progress import duration
from search.searcher import Sampler
from search.study import StudySpec, expected_epochs, rung_table
from spaces.domains import Params
from trainables import corpora, data, loop
from trainables.config import TrialConfig
from trainables.corpora.splits import Split
from trainables.data import Part, TrialData
from trainables.errors import UserError
from trainables.models import count_trainable

# A checkpoint holds the weights, two moments per weight with Adam, and the best weights again.
_CHECKPOINT_BYTES_PER_PARAMETER = 16
# What a worker process takes before it holds any data: Python, Torch and Ray.
_WORKER_BYTES = 450_000_000
_TIMED_STEPS = 2
_TIMED_BATCH = 64
_SPARE_BYTES = 200_000_000

_RANDOM_POINTS = 6
_LEFT: dict[str, Any] = {"title_justify": "left", "title_style": "bold"}


def plan(spec: StudySpec, corpus: Corpus, given: Options, directory: Path) -> dict[str, Any]:
    """Builds every baseline and the corners of the space, times a step of each, and reckons up the study.

    Times are of this machine with one trial alone; the cost of a typical trial is the mean over random points.
    """
    split = corpus.split
    points: dict[str, tuple[Params, str | None]] = {b.name: (dict(b.params), b.name) for b in spec.baselines}
    if not spec.only:
        points["smallest"] = (spec.space.corner(high=False), None)
        points["largest"] = (spec.space.corner(high=True), None)
        points["default"] = (dict(spec.space.default), None)
        sampler = Sampler(spec.space, spec.seed)
        points |= {f"random {n}": (sampler.ask(n), None) for n in range(_RANDOM_POINTS)}
    measured = {
        name: _measure(spec.config(params, baseline, spec.seed), split, corpus.sample_rate_hz)
        for name, (params, baseline) in points.items()
    }
    sampled = [row for name, row in measured.items() if name.startswith("random")]
    slots = local_slots(spec.cpus_per_trial, given.gpus_per_trial, given.concurrency)
    full, early = expected_epochs(spec)
    trial_seconds = mean(row["epoch_seconds"] for row in sampled) if sampled else 0.0
    seconds = sum(measured[b.name]["epoch_seconds"] * spec.max_epochs for b in spec.baselines) + early * trial_seconds
    epochs = full + early
    return {
        "space": spec.space.name,
        "parameters": [{"name": n, "range": domain, "when": when} for n, domain, when in spec.space.describe()],
        "data": spec.data.corpus,
        "task": spec.data.task,
        "classes": list(split.classes),
        "splits": split.summary,
        "notices": list(split.notices),
        "quarantined": None if corpus.store is None else len(corpus.store.quarantine),
        "trials": spec.trials,
        "rungs": list(spec.rungs),
        "rung_table": rung_table(spec),
        "baselines": [
            {"name": b.name, **measured[b.name], "published_accuracy": b.published_accuracy} for b in spec.baselines
        ],
        "corners": {name: measured[name] for name in ("default", "smallest", "largest") if name in measured},
        "slots": slots,
        "expected_epochs": epochs,
        "epoch_seconds": seconds / epochs,
        "estimated_seconds": seconds / slots,
        "budget_epochs": int(given.budget * slots * epochs / seconds) if given.budget else None,
        "disk_bytes": corpora.corpus_disk_needed(spec.data.corpus) + checkpoint_bytes(spec, corpus, slots),
        "disk_free_bytes": shutil.disk_usage(_existing(directory)).free,
        "memory_bytes": slots * max(row["memory_bytes"] for row in measured.values()),
        "memory_total_bytes": psutil.virtual_memory().total,
    }


def describe_plan(found: dict[str, Any]) -> RenderableType:
    """The plan as words and tables."""
    space = Table("parameter", "range", "only where", title=f"Space {found['space']}", **_LEFT)
    for row in found["parameters"]:
        space.add_row(row["name"], row["range"], row["when"])
    sizes = Table(title="Sizes and one timed step each", **_LEFT)
    for name in ("", "trainable parameters", "steps", "seconds an epoch", "accuracy published for all of NSynth"):
        sizes.add_column(name, justify="right" if name else "left")
    for name, row in (*((b["name"], b) for b in found["baselines"]), *found["corners"].items()):
        published = f"{row['published_accuracy']:.4f}" if "published_accuracy" in row else ""
        sizes.add_row(
            name,
            f"{row['trainable_parameters']:,}",
            str(row["steps"]),
            f"{row['epoch_seconds']:.2f}",
            published,
        )
    rungs = Table("rung", "trials that arrive", title="Rungs of ASHA, in epochs", **_LEFT)
    for epoch, trials in found["rung_table"]:
        rungs.add_row(str(epoch), str(trials))
    budget = f" The budget buys about {found['budget_epochs']:,}." if found["budget_epochs"] is not None else ""
    words = (
        f"{found['trials']} trials, about {found['expected_epochs']:,} epochs of {found['epoch_seconds']:.1f} s on "
        f"average; {found['slots']} at a time on this machine: about {duration(found['estimated_seconds'])}.{budget}\n"
        f"Disk: {found['disk_bytes'] / 1e9:.2f} GB needed, {found['disk_free_bytes'] / 1e9:.1f} GB free. "
        f"Memory: about {found['memory_bytes'] / 1e9:.1f} GB of {found['memory_total_bytes'] / 1e9:.1f} GB."
    )
    return Group(space, "", sizes, "", rungs, "", Text(words))


def _measure(config: TrialConfig, split: Split, sample_rate_hz: int) -> dict[str, Any]:
    """Size, memory and seconds per epoch of one configuration, from a timed step on random inputs."""
    shape = config.features.shape(sample_rate_hz)
    clips = {name: len(split.rows[name]) for name in ("train", "tune")}
    batch = min(config.training.batch_size, clips["train"], _TIMED_BATCH)
    device = data.choose_device()
    parts = {
        name: Part.resident(torch.randn(batch, *shape, device=device), torch.arange(batch, device=device) % 2)
        for name in ("train", "tune")
    }
    one_step = replace(config, training=replace(config.training, batch_size=batch, max_epochs=1 + _TIMED_STEPS))
    reports = loop.train(one_step, TrialData(parts, shape, len(split.classes), device))
    next(reports)
    started = time.perf_counter()
    for _ in range(_TIMED_STEPS):
        next(reports)
    # A timed step trains on one batch and scores one; scoring costs about a third of training.
    step = (time.perf_counter() - started) / _TIMED_STEPS
    weights = count_trainable(loop.build(config, shape, len(split.classes)))
    inputs = 4 * shape[0] * shape[1] * (clips["train"] + clips["tune"])
    activations = 4 * 8 * batch * shape[0] * sum(getattr(config.model, "widths", ())) * 2
    return {
        "trainable_parameters": weights,
        "steps": shape[0],
        "epoch_seconds": round(step * (0.75 * clips["train"] + 0.25 * clips["tune"]) / batch, 4),
        "memory_bytes": _WORKER_BYTES + inputs + activations + _CHECKPOINT_BYTES_PER_PARAMETER * weights,
    }


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def checkpoint_bytes(spec: StudySpec, corpus: Corpus, slots: int) -> int:
    """What the checkpoints of live and top trials take at most, if all were of the largest model."""
    points: list[tuple[Params, str | None]] = [(dict(b.params), b.name) for b in spec.baselines]
    if not spec.only:
        points.append((spec.space.corner(high=True), None))
    classes = len(corpus.split.classes)
    sizes = []
    for params, baseline in points:
        config = spec.config(params, baseline, spec.seed)
        sizes.append(count_trainable(loop.build(config, config.features.shape(corpus.sample_rate_hz), classes)))
    kept = min(spec.trials, slots + KEPT_TRIALS + len(spec.baselines))
    return kept * max(sizes) * _CHECKPOINT_BYTES_PER_PARAMETER


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Raises UserError where a study's checkpoints would not fit."""
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed_bytes + _SPARE_BYTES:
        raise UserError(
            f"The study needs about {(needed_bytes + _SPARE_BYTES) / 1e9:.1f} GB of disk, but {folder} has "
            f"{free / 1e9:.1f} GB free. Make room or name another place with --storage."
        )


def local_slots(cpus_per_trial: int, gpus_per_trial: float | None, concurrency: int | None) -> int:
    """Trials at a time on this machine alone, for an estimate without a cluster."""
    gpus, cores = torch.cuda.device_count(), psutil.cpu_count() or 1
    each = (1.0 if gpus else 0.0) if gpus_per_trial is None else gpus_per_trial
    if each > gpus:
        raise UserError(
            f"A trial must fit one node, but --gpus-per-trial is {each:g} and this machine has {gpus} GPUs. "
            f"Ask for at most that."
        )
    slots = min(cores // cpus_per_trial, int(gpus / each + 1e-6) if each else cores)
    return min(concurrency or slots, max(slots, 1))
