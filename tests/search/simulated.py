"""Studies under a simulated clock: the real engine and journal, made-up learning curves, any number of slots."""

import heapq
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from search.engine import Engine, State, Trial
from search.study import StudySpec
from spaces.domains import Choice, Param, Space, Value
from trainables.config import DataConfig
from trainables.files import BEST_WEIGHTS, STATE

DATA = DataConfig(corpus="demo", digest="0" * 64, task="family", keep_synth_lead=False, split="official", split_seed=0)
DIVERGED = 0.02  # the share of trials that fail


def study(space: Space, trials: int, seed: int = 0) -> StudySpec:
    """A study with four rungs: most trials end after their first epoch."""
    return StudySpec(
        name="simulated",
        space=space,
        data=DATA,
        trials=trials,
        max_epochs=27,
        grace_epochs=1,
        reduction_factor=3,
        seed=seed,
        cpus_per_trial=1,
        with_baselines=True,
    )


def height(space: Space, params: dict[str, Value]) -> float:
    """The score in [0, 1] that a trial tends to: 1 at one point of the space, which depends on its names only.

    Parameters weigh 1, 1/2, 1/4, 1/8, … in an order of their own: a few matter, as in reality.
    """
    loss, norm = 0.0, 0.0
    for rank, param in enumerate(sorted(space.params, key=lambda p: p.name[::-1])):
        if param.name in params:
            weight = 2.0 ** -(rank % 8)
            norm += weight
            loss += weight * (_place(param, params[param.name]) - (0.3 + 0.4 * (rank % 3) / 2)) ** 2
    return 1 - math.sqrt(loss / norm)


def _place(param: Param, value: Value) -> float:
    """Where a value lies in its range, from 0 to 1."""
    domain = param.domain
    if isinstance(domain, Choice):
        return domain.options.index(value) / max(1, len(domain.options) - 1)
    low, high, at = float(domain.low), float(domain.high), float(value)
    if domain.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low) if high > low else 0.0


def report(space: Space, trial: Trial, epoch: int) -> dict[str, Any]:
    """An epoch of a curve that rises towards the trial's height, with noise; a few diverge, a few end themselves."""
    rng = np.random.default_rng((trial.seed, epoch))
    luck = np.random.default_rng(trial.seed).random()
    now = height(space, trial.params) * (1 - math.exp(-epoch / 4)) + 0.02 * float(rng.standard_normal())
    better = trial.score is None or now > trial.score
    row = dict.fromkeys(
        (
            "learning_rate",
            "train_loss",
            "train_cross_entropy",
            "train_accuracy",
            "train_balanced_accuracy",
            "train_macro_f1",
            "tune_loss",
            "tune_cross_entropy",
            "tune_accuracy",
            "tune_macro_f1",
        ),
        now,
    )
    return {
        "epoch": epoch,
        "score": now if better else trial.score,
        "best_epoch": epoch if better else trial.best_epoch,
        **row,
        "tune_balanced_accuracy": now,
        "failure": "training loss became nan" if luck < DIVERGED else None,
        "ended": luck > 1 - DIVERGED and epoch > 4,
        "epoch_seconds": 1.0,
        "trainable_parameters": 1_000_000,
        "memory_bytes": 1_000_000_000,
        "node": "10.0.0.1",
    }


def simulate(
    engine: Engine, slots: int, curve: Callable[[Space, Trial, int], dict[str, Any]] = report
) -> Iterator[Trial]:
    """Runs a study with `slots` trials at a time; yields each trial as it ends.

    An epoch takes 0.2 to 5 simulated seconds, by trial; of those that are due, the earliest reports first.
    """
    due: list[tuple[float, int]] = []
    clock = 0.0
    while True:
        while len(due) < slots and (trial := engine.next_trial()):
            _checkpoint(engine.journal.folder(trial.number))
            heapq.heappush(due, (clock + _seconds(trial), trial.number))
        if not due:
            return
        clock, number = heapq.heappop(due)
        trial = engine.trials[number]
        engine.report(number, curve(engine.spec.space, trial, trial.epoch + 1))
        if trial.state is State.RUNNING:
            heapq.heappush(due, (clock + _seconds(trial), number))
        else:
            yield trial


def _checkpoint(folder: Path) -> None:
    """What a worker leaves in a trial's folder, without content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (STATE, BEST_WEIGHTS):
        (folder / name).touch()


def _seconds(trial: Trial) -> float:
    return 0.2 * 25.0 ** float(np.random.default_rng((trial.seed, 1)).random())
