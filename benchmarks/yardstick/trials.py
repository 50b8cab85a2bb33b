"""The list of trials, and how one is trained: the same code for every tool."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import optuna
import torch
from jobs import GRACE_EPOCHS, SEARCH_EPOCHS, SIZES, Job

import spaces
from search import adapt
from search.searcher import derived_seed
from spaces.domains import Params, Space
from trainables import corpora, data, loop
from trainables.config import DataConfig, TrialConfig, point, resolve
from trainables.features import vector
from trainables.loop import EpochReport


def prepare(
    family: str, size: str, corpus: str, *, stopping: bool, slots: int, trials: int | None, epochs: int | None
) -> Job:
    """The job of a family and a size; decodes the corpus and computes its descriptors where that was not done yet."""
    named = corpora.absolute(corpus)
    store = corpora.open_corpus(named)
    if family == "mlp":
        vector.table(store)
    config = DataConfig(named, store.digest, corpora.tasks(named)[0], False, corpora.splits_of(named)[0], 0)
    how = SIZES[family][size]
    space = _space(family, how.fixed, store.clip_seconds)
    n = trials or how.trials
    return Job(
        family=family,
        fixed=list(how.fixed),
        data=asdict(config),
        clip_seconds=store.clip_seconds,
        points=points(space, n),
        seeds=[derived_seed(0, number) for number in range(n)],
        epochs=epochs or (max(SEARCH_EPOCHS, GRACE_EPOCHS) if stopping else how.epochs),
        stopping=stopping,
        slots=slots,
        folder="",
    )


def points(space: Space, n: int) -> list[Params]:
    """The default and random points, the same every time."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [dict(space.default), *(space(study.ask()) for _ in range(n - 1))]


def space_of(job: Job) -> Space:
    """The space that the job's trials are of."""
    return _space(job.family, job.fixed, job.clip_seconds)


def _space(family: str, fixed: list[str] | tuple[str, ...], clip_seconds: float) -> Space:
    return adapt.fitted(adapt.fixed(spaces.load(family), fixed), clip_seconds)


def config_of(job: Job, number: int) -> TrialConfig:
    """The resolved configuration of a trial."""
    return resolve(
        point(
            space_of(job),
            job.points[number],
            data=DataConfig(**job.data),
            seed=job.seeds[number],
            max_epochs=job.epochs,
            threads=1,
        )
    )


def train(job: Job, number: int, folder: Path | None = None) -> Iterator[EpochReport]:
    """Trains a trial on the decoded corpus, noting and yielding each epoch."""
    config = config_of(job, number)
    inputs = data.trial_data(config.data, config.features, torch.device("cpu"))
    for report in loop.train(config, inputs, folder):
        job.note(number, report.epoch, report.score)
        yield report
