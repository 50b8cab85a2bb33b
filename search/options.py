"""The command line: what may be asked for, and what it comes to."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

import spaces
from search import adapt, places
from search.scheduler import rung_epochs
from search.study import StudySpec, check_unchanged, choose, space_of_baseline
from spaces.domains import Baseline, Space
from trainables import corpora
from trainables.config import DataConfig
from trainables.corpora.importer import cores
from trainables.corpora.splits import Split, split
from trainables.corpora.store import Store
from trainables.errors import UserError
from trainables.files import from_home

HERE = "local"  # as --address: this machine alone, also where a study was on a cluster before
TRIALS, MAX_EPOCHS, GRACE_EPOCHS, REDUCTION_FACTOR = 32, 27, 3, 3
# Above this a dry run reads labels only and leaves the decoding, which may take long, to the study itself.
_DECODE_IN_DRY_RUN_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Options:
    """The command line as given; what is None was left out."""

    space: str | None
    baseline: str | None
    data: str | None
    task: str | None
    split: str | None
    fix: tuple[str, ...]
    weights: str | None
    keep_synth_lead: bool | None
    strict: bool
    trials: int | None
    max_epochs: int | None
    grace_epochs: int | None
    reduction_factor: int | None
    no_baselines: bool | None
    seed: int | None
    budget: float | None
    concurrency: int | None
    cpus_per_trial: int | None
    gpus_per_trial: float | None
    address: str | None
    storage: str
    name: str | None
    resume: bool
    dry_run: bool
    json: bool
    debug: bool


@dataclass(frozen=True)
class Corpus:
    """A corpus as the study sees it. `store` is None where a dry run left it undecoded."""

    data: DataConfig
    store: Store | None
    split: Split
    sample_rate_hz: int
    clip_seconds: float


class Duration(click.ParamType[float]):
    """A duration such as 90s, 45m, 2h or 1.5h, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; fails where `value` is no duration."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)", str(value).strip())
        if not match or float(match[1]) <= 0:
            self.fail(f"A budget must be a positive duration such as 90s, 45m or 2h, but is {value!r}.", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[match[2]]


_FLAG: dict[str, Any] = {"is_flag": True, "default": None}
_COUNT = click.IntRange(min=1)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--space",
    metavar="FAMILY",
    help=f"Architecture family to search: {', '.join(spaces.names())}; several with commas, or all of them: all.",
)
@click.option("--baseline", metavar="NAME", help="Run one published recipe alone, with its published settings.")
@click.option(
    "--data",
    metavar="CORPUS",
    help=f"The corpus, one of {', '.join(corpora.KINDS)} [demo; demo-genre for a recipe made for genres].",
)
@click.option("--task", metavar="TASK", help="What to classify: family or source of notes [the corpus' first task].")
@click.option("--split", metavar="HOW", help="How the corpus is divided: official, random or filtered (GTZAN).")
@click.option(
    "--fix",
    metavar="NAME=VALUES",
    multiple=True,
    help="Restrict a parameter, also of the published recipes: picture_size=32,64 or learning_rate=0.0005..0.005.",
)
@click.option(
    "--weights",
    metavar="SOURCE",
    help="Initial weights of vgg16, googlenet, resnet50: imagenet, none or a file [imagenet].",
)
@click.option("--keep-synth-lead", **_FLAG, help="Keep NSynth's synth_lead notes, which the published reports drop.")
@click.option("--strict", is_flag=True, help="Take any unusable recording as an error instead of leaving it out.")
@click.option("--trials", type=_COUNT, help=f"Configurations to try, published ones included [{TRIALS}].")
@click.option("--max-epochs", type=_COUNT, help=f"Full length of a trial [{MAX_EPOCHS}].")
@click.option("--grace-epochs", type=int, help=f"Epochs before a trial may be stopped [{GRACE_EPOCHS}].")
@click.option("--reduction-factor", type=int, help=f"One in so many goes on at each rung [{REDUCTION_FACTOR}].")
@click.option("--no-baselines", **_FLAG, help="Do not begin with the published recipes.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Decides splits, proposals and training [0].")
@click.option("--budget", type=Duration(), help="Wall-clock time over all sessions, such as 45m or 2h.")
@click.option("--concurrency", type=_COUNT, help="Trials at a time [as many as fit].")
@click.option("--cpus-per-trial", type=_COUNT, help="Cores and threads of a trial [1].")
@click.option("--gpus-per-trial", type=float, help="GPUs of a trial, fractions allowed [1 where there are GPUs].")
@click.option("--address", help="A running Ray cluster to use, HOST:PORT or auto [this machine alone, local].")
@click.option(
    "--storage", default="studies", show_default=True, help="Folder for study directories, or s3://bucket/prefix."
)
@click.option("--name", help="Name of the study, and of its directory [made from space and corpus].")
@click.option("--resume", is_flag=True, help="Go on with the study of that --name; what is left out stays as it was.")
@click.option("--dry-run", is_flag=True, help="Say what the study would be and cost; start nothing.")
@click.option("--json", is_flag=True, help="Print the plan or the summary as one JSON object on standard output.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def _command(**values: Any) -> Options:
    """Find the best audio classifier of one architecture family for a labelled corpus."""
    return Options(**values)


def parse(arguments: list[str]) -> Options | None:
    """The options in `arguments`; None where help was asked for and given. Raises click's own errors."""
    found = _command.main(arguments, prog_name="search/run.py", standalone_mode=False)
    return found if isinstance(found, Options) else None


def open_corpus(
    given: Options, before: StudySpec | None, spec: str, task: str, progress: Callable[[str, int, int], None]
) -> Corpus:
    """The corpus asked for, decoded if need be, and its splits; raises UserError."""
    seed = _first(given.seed, before and before.seed, 0)
    keep = _first(given.keep_synth_lead, before and before.data.keep_synth_lead, False)
    how = _first(given.split, before and before.data.split, corpora.splits_of(spec)[0])
    if how not in corpora.splits_of(spec):
        raise UserError(
            f"--split must be {' or '.join(corpora.splits_of(spec))} for {spec}, but is {how!r}. Leave it out or name "
            f"one of these."
        )
    if given.dry_run and corpora.corpus_disk_needed(spec) > _DECODE_IN_DRY_RUN_BYTES:
        clips, rate, seconds, store = (
            corpora.labels(spec),
            corpora.sample_rate_hz(spec),
            corpora.clip_seconds(spec),
            None,
        )
    else:
        store = corpora.open_corpus(spec, strict=given.strict, progress=progress)
        clips, rate, seconds = store.clips, store.sample_rate_hz, store.clip_seconds
    try:
        parts = split(clips, task=task, how=how, keep_synth_lead=keep, seed=seed)
    except UserError as error:  # what is missing may be what was passed over
        raise UserError(" ".join([str(error), *(f"{note}." for note in (store.notes if store else ()))])) from None
    # A corpus that nobody decoded is taken for the study's.
    digest = store.digest if store else before.data.digest if before else ""
    data = DataConfig(spec, digest, task, keep, how, seed)
    return Corpus(data, store, parts, rate, seconds)


def corpus_named(given: Options, before: StudySpec | None, baseline: Baseline | None) -> str:
    """The corpus asked for, else that of the study to resume, else a demo; raises UserError."""
    _check_text("--data", given.data)
    default = "demo-genre" if baseline and baseline.corpus == "gtzan" else "demo"
    found = corpora.absolute(given.data or (before.data.corpus if before else default))
    _check_text("--data", found)  # with the folders above it, by which it is recorded
    return found


def task_named(given: Options, before: StudySpec | None, baseline: Baseline | None, corpus: str) -> str:
    """The task asked for, else that of the study resumed or of the recipe, or the corpus' first; raises UserError."""
    tasks = corpora.tasks(corpus)
    published = baseline.task if baseline and baseline.task in tasks else None
    task: str = _first(given.task, before and before.data.task, published, tasks[0])
    if task not in tasks:
        raise UserError(f"--task must be {' or '.join(tasks)} for {corpus}, but is {task!r}. Name one of these.")
    return task


def settle(given: Options, progress: Callable[[str, int, int], None]) -> tuple[StudySpec, Path, Corpus]:
    """The specification that the options come to, the study's directory and its corpus; raises UserError."""
    before = places.existing(given) if given.resume else None
    if given.space and given.baseline:
        raise UserError("--space searches a family and --baseline runs one recipe alone, but both came. Leave one out.")
    only = given.baseline or (before.only if before and not given.space else None)
    if only and given.trials not in (None, 1):
        raise UserError(f"--baseline runs one recipe once, but --trials is {given.trials}. Leave --trials out.")
    if only:
        space = space_of_baseline(only)
    elif given.space or before:
        name = given.space or (before.space.name if before else "")
        space = spaces.load(choose("space", name, spaces.names()))
    else:
        raise UserError(
            f"A study needs a family to search, but neither --space nor --baseline came. "
            f"Name one of: {', '.join(spaces.names())}; several with commas, or all."
        )
    baseline = next((b for b in space.baselines if b.name == only), None)
    named = corpus_named(given, before, baseline)
    task = task_named(given, before, baseline, named)
    adapt.known((param.name for param in space.params), given.fix)
    if before:
        # What the study restricted by itself nobody has to ask for again.
        own = tuple(wish for wish in before.fixed if wish != adapt.SMALL_PICTURES)
        wishes = before.fixed if given.fix in ((), own) else given.fix
    else:
        wishes = given.fix
        if not only and given.address in (None, HERE):
            wishes += adapt.small_pictures(space, wishes)
    source = weights_named(given, before, space)
    max_epochs = _first(given.max_epochs, before and before.max_epochs, baseline and baseline.epochs, MAX_EPOCHS)
    spec = StudySpec(
        name="",
        space=space,
        data=DataConfig(named, "", task, False, "", 0),
        trials=1 if only else _first(given.trials, before and before.trials, TRIALS),
        max_epochs=max_epochs,
        grace_epochs=_first(given.grace_epochs, before and before.grace_epochs, min(GRACE_EPOCHS, max_epochs)),
        reduction_factor=_first(given.reduction_factor, before and before.reduction_factor, REDUCTION_FACTOR),
        seed=_first(given.seed, before and before.seed, 0),
        cpus_per_trial=_first(given.cpus_per_trial, before and before.cpus_per_trial, 1),
        with_baselines=not _first(given.no_baselines, before and not before.with_baselines, False),
        only=only,
        fixed=wishes,
        weights=source,
    )
    rung_epochs(spec.max_epochs, spec.grace_epochs, spec.reduction_factor)  # raises UserError before any data is read
    _check_resources(given, spec.cpus_per_trial)
    path = places.directory(given, space.name, given.data or named)
    space = adapt.weighted(adapt.fixed(space, wishes), source)
    corpus = open_corpus(given, before, named, task, progress)
    space = adapt.fitted(space, corpus.clip_seconds)
    spec = replace(spec, name=path.name, data=corpus.data, space=space)
    return (check_unchanged(spec, before) if before else spec), path, corpus


def weights_named(given: Options, before: StudySpec | None, space: Space) -> str:
    """Where a pretrained network's weights come from; "" for other families, for which naming any is an error."""
    if "weights_file" in space.settings:
        _check_text("--weights", given.weights)
        source: str = _first(given.weights, before and before.weights, "imagenet")
        return source if source in ("imagenet", "none") else str(from_home(source).absolute())
    if given.weights not in (None, "none"):
        raise UserError(
            f"--weights is for families that begin with a pretrained network, but --space is {space.name}. "
            f"Leave it out."
        )
    return ""


def _check_text(option: str, value: str | None) -> None:
    """Raises UserError for a path that `study.json` could not hold."""
    if any("\udc80" <= letter <= "\udcff" for letter in value or ""):
        raise UserError(f"{option} must be readable text, but {value!r} is not. Rename what it names.")


def stays_here(given: Options) -> bool:
    """Whether trials are sure to run on this machine: a resumed study goes on where its journal says it was."""
    return given.address in (None, HERE) and not given.resume


def _check_resources(given: Options, cpus_per_trial: int) -> None:
    """What can be said without a cluster; the rest is checked against the nodes."""
    if stays_here(given) and cpus_per_trial > cores():
        raise UserError(
            f"A trial must fit one node, but --cpus-per-trial is {cpus_per_trial} and this machine has {cores()} "
            f"cores. Ask for at most that."
        )
    fraction = given.gpus_per_trial
    whole = fraction is not None and math.isfinite(fraction) and fraction == int(fraction)
    if fraction is not None and not (0 <= fraction < 1 or (whole and fraction >= 1)):
        raise UserError(
            f"--gpus-per-trial must be a fraction of one GPU or a whole number of them, but is {fraction:g}. "
            f"Use 0.25, 0.5, 1, 2 …"
        )


def _first(*values: Any) -> Any:
    """The first value that is not None."""
    return next(value for value in values if value is not None)
