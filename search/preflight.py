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
from trainables.data import Part, TrialData
from trainables.errors import UserError
from trainables.footprint import footprint, training_bytes

# A checkpoint holds the weights, two moments per weight with Adam, and the best weights again.
_CHECKPOINT_BYTES_PER_PARAMETER = 16
# What a worker process takes before it holds any data: Python, Torch and Ray.
_WORKER_BYTES = 450_000_000
_TIMED_STEPS = 2
_TIMED_BATCH = 64
_TIMED_VALUES = 2**26
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
    slots = local_slots(spec.cpus_per_trial, given.gpus_per_trial, given.concurrency)
    share = local_share_bytes(spec.cpus_per_trial)
    measured = {
        name: _measure(spec.config(params, baseline, spec.seed), corpus, share)
        for name, (params, baseline) in points.items()
    }
    sampled = [row for name, row in measured.items() if name.startswith("random") and row["fits"]]
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
            {
                "name": b.name,
                **measured[b.name],
                "published_accuracy": b.published_accuracy,
                "published_balanced_accuracy": b.published_balanced_accuracy,
                "changes": list(b.changes),
            }
            for b in spec.baselines
        ],
        "corners": {name: measured[name] for name in ("default", "smallest", "largest") if name in measured},
        "slots": slots,
        "expected_epochs": epochs,
        "epoch_seconds": seconds / epochs,
        "estimated_seconds": seconds / slots,
        "budget_epochs": int(given.budget * slots * epochs / seconds) if given.budget and seconds else None,
        "disk_bytes": corpora.corpus_disk_needed(spec.data.corpus) + checkpoint_bytes(spec, corpus, slots),
        "disk_free_bytes": shutil.disk_usage(_existing(directory)).free,
        "memory_bytes": slots * max(row["memory_bytes"] for row in measured.values() if row["fits"] or not sampled),
        "memory_share_bytes": share,
        "memory_total_bytes": psutil.virtual_memory().total,
    }


def describe_plan(found: dict[str, Any]) -> RenderableType:
    """The plan as words and tables; of a recipe alone without the space, which is not searched then."""
    space = Table("parameter", "range", "only where", title=f"Space {found['space']}", **_LEFT)
    for row in found["parameters"]:
        space.add_row(row["name"], row["range"], row["when"])
    sizes = Table(title="Sizes and one timed step each", **_LEFT)
    sizes.add_column("", no_wrap=True)
    for name in ("weights", "input", "memory", "s/epoch", "published"):
        sizes.add_column(name, justify="right")
    rows = {**{b["name"]: b for b in found["baselines"]}, **found["corners"]}
    for name, row in rows.items():
        sizes.add_row(
            name,
            f"{row['trainable_parameters']:,}",
            "×".join(map(str, row["input"])),
            f"{row['memory_bytes'] / 1e9:.1f} GB",
            f"{row['epoch_seconds']:.2f}" if row["fits"] else "too large",
            published(row),
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
    changed = [f"{b['name']}, changed: {', '.join(b['changes'])}" for b in found["baselines"] if b["changes"]]
    if large := [name for name, row in rows.items() if not row["fits"]]:
        words += (
            f"\nA trial's share of the memory is {found['memory_share_bytes'] / 1e9:.1f} GB: {', '.join(large)} would "
            f"not be trained. A larger --cpus-per-trial gives a larger share; --fix restricts what is tried."
        )
    end = Text("\n".join([*changed, words]))
    return Group(space, "", sizes, "", rungs, "", end) if found["corners"] else Group(sizes, "", end)


def describe_plans(plans: list[dict[str, Any]]) -> RenderableType:
    """The plans of several families, shortly, and what they come to together."""
    table = Table(title="Studies, one after the other", **_LEFT)
    table.add_column("", no_wrap=True)
    for name in ("trials", "epochs", "time", "disk", "memory", "too large"):
        table.add_column(name, justify="right")
    for found in plans:
        rows = {**{b["name"]: b for b in found["baselines"]}, **found["corners"]}
        table.add_row(
            found["space"],
            str(found["trials"]),
            f"{found['expected_epochs']:,}",
            duration(found["estimated_seconds"]),
            f"{found['disk_bytes'] / 1e9:.2f} GB",
            f"{found['memory_bytes'] / 1e9:.1f} GB",
            ", ".join(name for name, row in rows.items() if not row["fits"]),
        )
    first = plans[0]
    words = (
        f"About {duration(sum(found['estimated_seconds'] for found in plans))} in all with {first['slots']} trials at "
        f"a time on this machine. Disk: {sum(found['disk_bytes'] for found in plans) / 1e9:.2f} GB at most, "
        f"{first['disk_free_bytes'] / 1e9:.1f} GB free. A dry run of one family shows its space and its rungs."
    )
    return Group(table, "", Text(words))


def published(row: dict[str, Any]) -> str:
    """What was published for a recipe, on the corpus it was made for."""
    names = {"published_accuracy": "accuracy", "published_balanced_accuracy": "balanced"}
    return ", ".join(f"{word} {row[name]:.4f}" for name, word in names.items() if row.get(name) is not None)


def _measure(config: TrialConfig, corpus: Corpus, share_bytes: int) -> dict[str, Any]:
    """Size, memory and seconds per epoch of one configuration, from a timed step on random inputs.

    What would not fit into a trial's share of the memory is not tried.
    """
    split, shape = corpus.split, _shape(config, corpus)
    clips = {name: len(split.rows[name]) for name in ("train", "tune")}
    classes = len(split.classes)
    size = footprint(config, shape, classes)
    stored = config.features.stored_bytes(corpus.sample_rate_hz, corpus.clip_seconds)
    needed = memory_needed(config, shape, classes)
    found = {
        "trainable_parameters": size.trainable_parameters,
        "input": list(shape),
        "memory_bytes": needed + min(stored * sum(clips.values()), share_bytes // 4),
        "fits": needed <= share_bytes,
        "epoch_seconds": 0.0,
    }
    if not found["fits"]:
        return found
    batch = min(config.training.batch_size, clips["train"], _TIMED_BATCH, max(2, _TIMED_VALUES // (size.kept + 1)))
    device = data.choose_device()
    parts = {
        name: Part.resident(torch.randn(batch, *shape, device=device), torch.arange(batch, device=device) % 2)
        for name in ("train", "tune")
    }
    one_step = replace(config, training=replace(config.training, batch_size=batch, max_epochs=1 + _TIMED_STEPS))
    reports = loop.train(one_step, TrialData(parts, shape, classes, device))
    next(reports)
    started = time.perf_counter()
    steps = sum(1 for _ in reports)
    # A timed step trains on one batch and scores one; scoring costs about a third of training.
    step = (time.perf_counter() - started) / max(steps, 1)
    per_clip = excerpts_per_clip(config, corpus)
    found["epoch_seconds"] = round(step * per_clip * (0.75 * clips["train"] + 0.25 * clips["tune"]) / batch, 4)
    return found


def _shape(config: TrialConfig, corpus: Corpus) -> tuple[int, ...]:
    """The shape of an input; of vectors at most that."""
    return config.features.shape(corpus.sample_rate_hz, corpus.clip_seconds)


def excerpts_per_clip(config: TrialConfig, corpus: Corpus) -> int:
    """How many examples a clip of full length gives."""
    if config.features.excerpt != "segments":
        return 1
    return max(1, int(corpus.clip_seconds // config.features.seconds))


def memory_needed(config: TrialConfig, shape: tuple[int, ...], classes: int) -> int:
    """What a trial's process takes at least, in bytes: itself, the network and one batch."""
    return _WORKER_BYTES + training_bytes(config, shape, classes)


def local_share_bytes(cpus_per_trial: int) -> int:
    """What one trial may use of this machine's memory, as its worker will reckon it."""
    from search.trial import share_of_memory

    return share_of_memory(cpus_per_trial / (psutil.cpu_count() or 1))


def check_fits(spec: StudySpec, corpus: Corpus) -> None:
    """Raises UserError where the one recipe that a study consists of cannot be trained on this machine."""
    baseline = spec.baselines[0]
    config = spec.config(dict(baseline.params), baseline.name, spec.seed)
    needed = memory_needed(config, _shape(config, corpus), len(corpus.split.classes))
    share = local_share_bytes(spec.cpus_per_trial)
    if needed > share:
        raise UserError(
            f"A trial must fit its share of the memory, but {baseline.name} needs about {needed / 1e9:.1f} GB and has "
            f"{share / 1e9:.1f} GB. Give it more cores, and so a larger share, with --cpus-per-trial, or make it "
            f"smaller, as with --fix batch_size=32 or --fix picture_size=128."
        )


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
        sizes.append(footprint(config, _shape(config, corpus), classes).parameters)
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
