"""Searches replayed on recorded learning curves: how good is the best found model after so many epochs?

python benchmarks/replay.py [--repeats 30] [--slots 4] [--families lstm] [--only 'random, promoted']

`curves.parquet` (see `record_curves.py`) stands for training. A searcher may propose any point of the space; it gets
the recorded curve of a configuration like it (see `curves.py`), drawn by the trial's seed. Searchers and schedulers are
the real ones; slots and time are simulated from the recorded seconds.

Regret is told in two ways. *Shown*: the best recorded score on tune less the best that any trial reported so far, which
is what a user would read on stopping there. *Expected*: the same with the luck of the seed taken out of both, for the
best recorded score owes something to it, and luck cannot be searched for. It may rise while a search goes on, as where
a lucky trial takes the lead from a good one.
"""

import argparse
import heapq
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import optuna
from curves import Curves, Params, random_points
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from record_curves import EPOCHS, RECORDED

from search.engine import Decision, Engine
from search.records import Journal
from search.scheduler import Asha, rung_epochs
from search.study import StudySpec
from spaces.domains import Space
from trainables.config import DataConfig

BUDGETS = (67, 135, 270, 540, 1080)
_FIRST, _FACTOR = 3, 3  # this project's rungs
_DATA = DataConfig(
    corpus="recorded", digest="0" * 64, task="family", keep_synth_lead=False, split="official", split_seed=0
)


class _Search(Protocol):
    """A searcher and its scheduler."""

    def start(self) -> tuple[int, Params] | None:
        """The next trial's number and parameters, or None where there is none to start now."""

    def report(self, trial: int, epoch: int, score: float, best: float, best_epoch: int, last: bool) -> bool:
        """Takes an epoch's score; whether the trial goes on."""


class _Ours:
    """This project's engine."""

    def __init__(self, curves: Curves, seed: int, folder: Path, *, default: bool, budget: int) -> None:
        space = curves.space
        if not default:
            space = replace(space, default=random_points(space, seed)(0))
        spec = StudySpec("replay", space, _DATA, budget, EPOCHS, _FIRST, _FACTOR, seed, 1, with_baselines=False)
        self._engine = Engine(spec, Journal(folder))

    def start(self) -> tuple[int, Params] | None:
        trial = self._engine.next_trial()
        return (trial.number, trial.params) if trial else None

    def report(self, trial: int, epoch: int, score: float, best: float, best_epoch: int, last: bool) -> bool:
        row = {"epoch": epoch, "score": best, "best_epoch": best_epoch, "failure": None, "ended": last}
        return self._engine.report(trial, row) is Decision.CONTINUE


class _Random:
    """Random points, each trained in full."""

    def __init__(self, curves: Curves, seed: int) -> None:
        self._points, self._count = random_points(curves.space, seed), count()

    def start(self) -> tuple[int, Params] | None:
        number = next(self._count)
        return number, self._points(number)

    def report(self, trial: int, epoch: int, score: float, best: float, best_epoch: int, last: bool) -> bool:
        return not last


class _Halving:
    """Random points under this project's rungs; who is not among the best there is stopped, or else only waits.

    With `promoting` all wait at each rung, and whoever comes to be among its best third goes on when there is a slot
    (the promoting variant of Li et al. 2020); new trials begin where nobody may.
    """

    def __init__(self, curves: Curves, seed: int, *, promoting: bool) -> None:
        self._points, self._promoting = random_points(curves.space, seed), promoting
        self._asha = Asha(rung_epochs(EPOCHS, _FIRST, _FACTOR), _FACTOR)
        self._params: list[Params] = []
        self._arrived: dict[int, list[tuple[float, int]]] = {rung: [] for rung in self._asha.rungs[:-1]}
        self._gone_on: set[tuple[int, int]] = set()

    def start(self) -> tuple[int, Params] | None:
        for rung, rows in reversed(self._arrived.items()):
            for _, number in sorted(rows, reverse=True)[: len(rows) // _FACTOR]:
                if (rung, number) not in self._gone_on:
                    self._gone_on.add((rung, number))
                    return number, self._params[number]
        self._params.append(self._points(len(self._params)))
        return len(self._params) - 1, self._params[-1]

    def report(self, trial: int, epoch: int, score: float, best: float, best_epoch: int, last: bool) -> bool:
        if not self._promoting:
            passes = self._asha.passes(epoch, best)
            if last:
                self._asha.ends(epoch, best)
            return passes and not last
        for rung, rows in self._arrived.items():
            if epoch == rung or (last and epoch < rung):
                rows.append((best, trial))
                if last:
                    self._gone_on.add((rung, trial))
        return not last and epoch not in self._arrived


class _Stock:
    """Ray's ASHA and OptunaSearch, called in the order in which Tune calls them."""

    def __init__(self, curves: Curves, seed: int, **rungs: int) -> None:
        self._search = OptunaSearch(_Define(curves.space), metric="score", mode="max", seed=seed)
        self._asha = ASHAScheduler(metric="score", mode="max", max_t=EPOCHS, **rungs)
        self._count = count()

    def start(self) -> tuple[int, Params] | None:
        number = next(self._count)
        found = self._search.suggest(str(number))
        self._asha.on_trial_add(None, SimpleNamespace(trial_id=str(number)))
        assert isinstance(found, dict)
        return number, dict(found)

    def report(self, trial: int, epoch: int, score: float, best: float, best_epoch: int, last: bool) -> bool:
        result = {"training_iteration": epoch, "score": best}
        known = SimpleNamespace(trial_id=str(trial))
        decision = self._asha.on_trial_result(None, known, result)
        if last or decision == TrialScheduler.STOP:
            self._asha.on_trial_complete(None, known, result)
            self._search.on_trial_complete(str(trial), result=result)
            return False
        self._search.on_trial_result(str(trial), result)
        return True


class _FirstThenBest:
    """All for `first` epochs, with two thirds of the budget; then the best of them in full (Egele et al. 2024)."""

    def __init__(self, curves: Curves, seed: int, budget: int, first: int = _FIRST) -> None:
        self._points, self._first = random_points(curves.space, seed), first
        self._all = max(1, budget * 2 // 3 // first)
        self._chosen = max(1, budget // 3 // (EPOCHS - first))
        self._params: dict[int, Params] = {}
        self._scores: dict[int, float] = {}
        self._again: list[int] | None = None
        self._full: set[int] = set()

    def start(self) -> tuple[int, Params] | None:
        number = len(self._params)
        if number < self._all:
            self._params[number] = self._points(number)
            return number, self._params[number]
        if len(self._scores) < self._all:
            return None
        if self._again is None:
            self._again = sorted(self._scores, key=lambda n: -self._scores[n])[: self._chosen]
        if not self._again:
            return None
        number = self._again.pop(0)
        self._full.add(number)
        return number, self._params[number]

    def report(self, trial: int, epoch: int, score: float, best: float, best_epoch: int, last: bool) -> bool:
        if trial in self._full:
            return not last
        if last or epoch >= self._first:
            self._scores[trial] = best
            return False
        return True


class _Define:
    """A space as OptunaSearch wants it."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def __call__(self, trial: Any) -> None:
        self._space(trial)


def _recorded(curves: Curves, params: Params, seed: int, number: int) -> int:
    """The number of the recorded trial that stands for a search's trial."""
    return curves.like(params, int(np.random.SeedSequence((seed, number)).generate_state(1)[0]))


@dataclass
class _Running:
    trial: int
    recorded: int
    epoch: int
    best: float = -1.0
    best_epoch: int = 0


def regrets(search: _Search, curves: Curves, seed: int, budget: int, slots: int) -> npt.NDArray[np.float64]:
    """The regrets after each of `budget` epochs, of all trials together, as shown and as expected `(budget, 2)`."""
    due: list[tuple[float, int, _Running]] = []
    done: dict[int, _Running] = {}
    found = np.full((budget, 2), np.nan)
    clock, spent, best, regret, tie = 0.0, 0, -1.0, np.full(2, np.nan), count()
    while spent < budget:
        while len(due) < slots and (begun := search.start()):
            number, params = begun
            run = done.pop(number, None) or _Running(number, _recorded(curves, params, seed, number), 0)
            heapq.heappush(due, (clock + curves.seconds[run.recorded], next(tie), run))
        if not due:
            break
        clock, _, run = heapq.heappop(due)
        scores = curves.scores[run.recorded]
        run.epoch += 1
        score = float(scores[run.epoch - 1])
        if score > run.best:
            run.best, run.best_epoch = score, run.epoch
        if score > best:  # what is still to come of the trial is not shown yet, and so not expected of it either
            best, regret = score, curves.regrets[run.recorded] + scores.max() - score
        found[spent] = regret
        spent += 1
        if search.report(run.trial, run.epoch, score, run.best, run.best_epoch, run.epoch >= len(scores)):
            heapq.heappush(due, (clock + curves.seconds[run.recorded], next(tie), run))
        else:
            done[run.trial] = run
    found[spent:] = regret
    return found


def clairvoyant(curves: Curves, seed: int) -> npt.NDArray[np.float64]:
    """Regrets of a scheduler that sees after three epochs what each random point will show, and trains the best on."""
    points = random_points(curves.space, seed)
    trials = 1 + (BUDGETS[-1] - EPOCHS) // _FIRST
    ends = curves.regrets[[_recorded(curves, points(number), seed, number) for number in range(trials)]]
    return np.array([ends[ends[: 1 + (budget - EPOCHS) // _FIRST, 0].argmin()] for budget in BUDGETS])


def expected_of_random(curves: Curves) -> npt.NDArray[np.float64]:
    """Mean regrets of all draws of recorded configurations, of as many as a budget has room for.

    Trials that see no progress end early by themselves, so these are more than those of full length would be.
    """
    order = np.argsort(-curves.regrets[:, 0])
    below = np.cumsum(curves.wanted[order])
    length = float(curves.wanted @ np.array([len(scores) for scores in curves.scores]))
    chances = np.array([np.diff(below ** (budget / length), prepend=0.0) for budget in BUDGETS])
    return chances @ curves.regrets[order]


STRATEGIES = (
    "this project",
    "this project, no default",
    "random",
    "random, exact mean",
    "random, twice",
    "Ray stock",
    "Ray, same rungs",
    "3 epochs, then best",
    "random, stopped",
    "random, promoted",
    "clairvoyant",
)


def replay(family: str, strategy: str, seed: int, slots: int) -> npt.NDArray[np.float64]:
    """Regrets of one run of one strategy at the budgets, as shown and as expected `(budgets, 2)`."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    curves, most = Curves.load(family), BUDGETS[-1]
    if strategy == "3 epochs, then best":  # it must know its budget beforehand
        return np.array([regrets(_FirstThenBest(curves, seed, b), curves, seed, b, slots)[-1] for b in BUDGETS])
    if strategy == "random, exact mean":
        return expected_of_random(curves)
    if strategy == "clairvoyant":
        return clairvoyant(curves, seed)
    with tempfile.TemporaryDirectory() as folder:
        search: _Search
        if strategy.startswith("this"):
            search = _Ours(curves, seed, Path(folder), default=strategy == "this project", budget=most)
        elif strategy.startswith("Ray"):
            rungs = {} if strategy == "Ray stock" else {"grace_period": _FIRST, "reduction_factor": _FACTOR}
            search = _Stock(curves, seed, **rungs)
        elif strategy in ("random, stopped", "random, promoted"):
            search = _Halving(curves, seed, promoting=strategy == "random, promoted")
        else:
            search = _Random(curves, seed)
        factor = 2 if strategy == "random, twice" else 1
        found = regrets(search, curves, seed, factor * most, slots)
    return found[[factor * budget - 1 for budget in BUDGETS]]


def main() -> None:
    """Prints a table per family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--families", nargs="+", choices=RECORDED, default=sorted(RECORDED))
    parser.add_argument("--only", nargs="*", choices=STRATEGIES, default=STRATEGIES, help="these searches alone")
    given = parser.parse_args()
    head = f"| search | {' | '.join(map(str, BUDGETS))} |\n|---|{'--:|' * len(BUDGETS)}"
    rng = np.random.default_rng(0)
    pool = ProcessPoolExecutor(mp_context=get_context("spawn"))  # one for all: each process fits its forests once
    for family in given.families:
        print(f"\n{family}: mean regret (95 % interval) after so many epochs, {given.repeats} runs\n\nShown:\n\n{head}")
        expected = []
        for strategy in given.only:
            jobs = [pool.submit(replay, family, strategy, seed, given.slots) for seed in range(given.repeats)]
            found = np.array([job.result() for job in jobs])
            means = found[rng.integers(given.repeats, size=(4000, given.repeats))].mean(1)
            figures = np.stack([found.mean(0), *np.quantile(means, [0.025, 0.975], axis=0)], axis=-1)
            cells = [[f"{m:.3f} ({a:.3f}–{b:.3f})" for m, a, b in budget] for budget in figures]
            print(f"| {strategy} | {' | '.join(shown for shown, _ in cells)} |", flush=True)
            expected.append(f"| {strategy} | {' | '.join(other for _, other in cells)} |")
        print(f"\nExpected:\n\n{head}\n" + "\n".join(expected), flush=True)


if __name__ == "__main__":
    main()
