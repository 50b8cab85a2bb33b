"""What a study will be and cost, said before it starts."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

import psutil
import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import spaces
from search.disk import checkpoint_bytes, free_bytes, spare_bytes
from search.options import Corpus, Options, stays_here
from search.progress import duration
from search.searcher import Sampler
from search.slots import Machine, gpus_of_trial, share_of_memory
from search.study import StudySpec, expected_epochs, rung_table, unstopped
from spaces.domains import Params
from trainables import corpora, data, heap, loop
from trainables.config import TrialConfig
from trainables.corpora.importer import cores
from trainables.data import Part, TrialData
from trainables.errors import UserError
from trainables.footprint import Footprint, count_parameters, footprint

_TIMED_STEPS = 2
_TIMED_BATCH = 64
_TIMED_BYTES = 2**29

_RANDOM_POINTS = 6
T = TypeVar("T")
_LEFT: dict[str, Any] = {"title_justify": "left", "title_style": "bold"}


def plan(spec: StudySpec, corpus: Corpus, given: Options, directory: Path) -> dict[str, Any]:
    """Builds every baseline and the corners of the space, times a step of each, and reckons up the study.

    Times are of this machine with one trial alone; the cost of a typical trial is the mean over random points.
    """
    if spec.only:
        _recipe_bytes(spec, corpus, {})  # raises where its network cannot be built
    split = corpus.split
    points: dict[str, tuple[Params, str | None]] = {b.name: (dict(b.params), b.name) for b in spec.baselines}
    if not spec.only:
        points["smallest"] = (spec.space.corner(high=False), None)
        points["largest"] = (spec.space.corner(high=True), None)
        points["default"] = (dict(spec.space.default), None)
        sampler = Sampler(spec.space, spec.seed)
        points |= {f"random {n}": (sampler.ask(n), None) for n in range(_RANDOM_POINTS)}
    slots = local_slots(spec.cpus_per_trial, given)
    share = local_share_bytes(spec.cpus_per_trial)
    measured = {
        name: _measure(spec.config(params, baseline, spec.seed), corpus, share)
        for name, (params, baseline) in points.items()
    }
    sampled = [row for name, row in measured.items() if name.startswith("random") and row["fits"]]
    full, early = expected_epochs(spec)
    trial_seconds = mean(row["epoch_seconds"] for row in sampled) if sampled else 0.0
    in_full = [*(b.name for b in spec.baselines), *(() if spec.only else ("default",))][: unstopped(spec)]
    seconds = sum(measured[name]["epoch_seconds"] * spec.max_epochs for name in in_full) + early * trial_seconds
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
        "disk_bytes": corpora.corpus_disk_needed(spec.data.corpus)
        + checkpoint_bytes(spec, most_parameters(spec, corpus), slots),
        "disk_spare_bytes": spare_bytes(directory),
        "disk_free_bytes": free_bytes(directory),
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
            _pace(row),
            published(row),
        )
    rungs = Table("rung", "trials that arrive", title="Rungs of ASHA, in epochs", **_LEFT)
    for epoch, trials in found["rung_table"]:
        rungs.add_row(str(epoch), str(trials))
    budget = f" The budget buys about {found['budget_epochs']:,}." if found["budget_epochs"] is not None else ""
    words = (
        f"{found['trials']} trials, about {found['expected_epochs']:,} epochs of {found['epoch_seconds']:.1f} s on "
        f"average; {found['slots']} at a time on this machine: about {duration(found['estimated_seconds'])}.{budget}\n"
        f"Disk: {_disk([found])} needed, {found['disk_free_bytes'] / 1e9:.1f} GB free. "
        f"Memory: about {found['memory_bytes'] / 1e9:.1f} GB of {found['memory_total_bytes'] / 1e9:.1f} GB."
    )
    changed = [f"{b['name']}, changed: {', '.join(b['changes'])}" for b in found["baselines"] if b["changes"]]
    words += "".join(f"\n{name}: {row['impossible']}" for name, row in rows.items() if row["impossible"])
    if large := [name for name, row in rows.items() if not row["fits"] and not row["impossible"]]:
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
        f"a time on this machine. Disk: {_disk(plans)} at most, "
        f"{first['disk_free_bytes'] / 1e9:.1f} GB free. A dry run of one family shows its space and its rungs."
    )
    return Group(table, "", Text(words))


def _disk(plans: list[dict[str, Any]]) -> str:
    """What must be free for studies one after the other; what is spare for one is for the next."""
    return f"{(sum(found['disk_bytes'] for found in plans) + plans[0]['disk_spare_bytes']) / 1e9:.2f} GB"


def _pace(row: dict[str, Any]) -> str:
    """Seconds an epoch, or why there are none."""
    if row["impossible"]:
        return "not built"
    return f"{row['epoch_seconds']:.2f}" if row["fits"] else "too large"


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
    found = {
        "trainable_parameters": 0,
        "input": list(shape),
        "memory_bytes": 0,
        "fits": False,
        "impossible": None,
        "epoch_seconds": 0.0,
    }
    try:
        size = _footprint(config, corpus)
    except UserError as error:
        return {**found, "impossible": str(error)}
    per_clip = excerpts_per_clip(config, corpus)
    stored = per_clip * config.features.stored_bytes(corpus.sample_rate_hz, corpus.clip_seconds)
    spare = share_bytes - size.process_bytes
    found |= {
        "trainable_parameters": size.trainable_parameters,
        "memory_bytes": size.process_bytes + sum(stored * n for n in clips.values() if stored * n <= spare // 2),
        "fits": spare >= 0,
    }
    if not found["fits"]:
        return found
    affordable = max(2, _TIMED_BYTES // (size.example_bytes + 1))
    batch = min(config.training.batch_size, clips["train"], _TIMED_BATCH, affordable)
    device = data.choose_device()
    parts = {
        name: Part.resident(torch.randn(batch, *shape, device=device), torch.arange(batch, device=device) % 2)
        for name in ("train", "tune")
    }
    one_step = replace(config, training=replace(config.training, batch_size=batch, max_epochs=1 + _TIMED_STEPS))
    heap.keep_freed()  # as workers do; forked ones, with jemalloc, are a tenth faster
    reports = loop.train(one_step, TrialData(parts, shape, classes, device))
    next(reports)
    started = time.perf_counter()
    steps = sum(1 for _ in reports)
    # A timed step trains on one batch and scores one; scoring costs about a third of training.
    step = (time.perf_counter() - started) / max(steps, 1)
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


def _footprint(config: TrialConfig, corpus: Corpus) -> Footprint:
    """A configuration's footprint; raises UserError where its network cannot be built as asked."""
    return _of_network(footprint, config, corpus)


def _of_network(what: Callable[[TrialConfig, tuple[int, ...], int], T], config: TrialConfig, corpus: Corpus) -> T:
    shape = _shape(config, corpus)
    try:
        return what(config, shape, len(corpus.split.classes))
    except (RuntimeError, ValueError, ZeroDivisionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"A network must suit its inputs, but this one of {config.family} cannot be built for inputs of "
            f"{' × '.join(map(str, shape))} ({reason}). Choose other values with --fix, or leave one out."
        ) from error


def local_share_bytes(cpus_per_trial: int) -> int:
    """What one trial may use of this machine's memory, as its worker will reckon it."""
    return share_of_memory(cpus_per_trial / cores())


def check_fits(spec: StudySpec, corpus: Corpus) -> None:
    """Raises UserError where the one recipe that a study consists of cannot be trained on this machine."""
    needed = _recipe_bytes(spec, corpus, {})
    share = local_share_bytes(spec.cpus_per_trial)
    if needed > share:
        ways = [*_smaller(spec, corpus, share), *_more_cores(spec, needed)]
        advice = f"It fits with {' or '.join(ways)}." if ways else "It needs a machine with more memory."
        raise UserError(
            f"A trial must fit its share of the memory, but {spec.baselines[0].name} needs about {needed / 1e9:.1f} GB "
            f"and has {share / 1e9:.1f} GB. {advice}"
        )


def _recipe_bytes(spec: StudySpec, corpus: Corpus, changes: Params) -> int:
    """What the study's one recipe, with `changes`, takes without its data."""
    baseline = spec.baselines[0]
    return _footprint(spec.config({**baseline.params, **changes}, baseline.name, spec.seed), corpus).process_bytes


def _smaller(spec: StudySpec, corpus: Corpus, share_bytes: int) -> list[str]:
    """The largest batch and the largest picture below the recipe's with which it fits, each as an option."""
    recipe, found = spec.baselines[0].params, []
    # The family's own ranges: those of the study are what the user has restricted already.
    domains = {param.name: param.domain for param in spaces.load(spec.space.name).params}
    for name in ("batch_size", "picture_size"):
        if name not in recipe:
            continue
        smaller = sorted(int(value) for value in domains[name].corners() if int(value) < int(recipe[name]))
        sizes = (n for n in reversed(smaller) if _recipe_bytes(spec, corpus, {name: n}) <= share_bytes)
        found += [f"--fix {name}={n}" for n in islice(sizes, 1)]
    return found


def _more_cores(spec: StudySpec, needed_bytes: int) -> list[str]:
    """The fewest cores of this machine whose share of the memory suffices, as an option."""
    more = range(spec.cpus_per_trial + 1, cores() + 1)
    return [f"--cpus-per-trial {n}" for n in more if local_share_bytes(n) >= needed_bytes][:1]


def most_parameters(spec: StudySpec, corpus: Corpus) -> int:
    """The weights of the study's largest model."""
    points: list[tuple[Params, str | None]] = [(dict(b.params), b.name) for b in spec.baselines]
    if not spec.only:
        points.append((spec.space.corner(high=True), None))
    sizes = [0]
    for params, baseline in points:
        with contextlib.suppress(UserError):  # a network that cannot be built leaves no checkpoint
            sizes.append(_of_network(count_parameters, spec.config(params, baseline, spec.seed), corpus))
    return max(sizes)


def local_slots(cpus_per_trial: int, given: Options) -> int:
    """Trials at a time on this machine alone, for an estimate without a cluster; at least one.

    Raises UserError where a trial is to run here, and cannot.
    """
    here = Machine(cpus=cores(), gpus=torch.cuda.device_count())
    each = gpus_of_trial(given.gpus_per_trial, here.gpus)
    if each > here.gpus and stays_here(given):
        raise UserError(
            f"A trial must fit one node, but --gpus-per-trial is {each:g} and this machine has {here.gpus:g} GPUs. "
            f"Ask for at most that."
        )
    slots = max(1, here.slots(cpus_per_trial, each))
    return min(given.concurrency or slots, slots)
