"""What happens to a study, event by event: which trial is next, whether it goes on, what the sampler is told.

The engine knows nothing of Ray or of time. Driven by Ray it runs a study; driven by the rows of a journal it
stands again where the study was; driven by a loop it simulates one.
"""

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from search.records import Journal, Row
from search.scheduler import Asha
from search.searcher import Sampler, derived_seed
from search.study import StudySpec
from spaces.domains import Baseline, Params, Value

KEPT_TRIALS = 3
# What the others are measured against trains in full: published recipes and the family's default point.
UNSTOPPED = ("published", "default")


class State(StrEnum):
    """How a trial stands. Only COMPLETE ones, which trained to full length or to their own end, may be chosen."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


class Decision(StrEnum):
    """What is to happen after an epoch."""

    CONTINUE = "continue"
    STOP = "stop"
    COMPLETE = "complete"
    FAIL = "fail"


_ENDS = {Decision.STOP: State.PRUNED, Decision.COMPLETE: State.COMPLETE, Decision.FAIL: State.FAILED}


@dataclass(slots=True)
class Trial:
    """A trial of the study and how far it is. `score` is its best tune score so far, None before the first."""

    number: int
    params: Params
    baseline: str | None
    origin: str
    seed: int
    epoch: int = 0
    score: float | None = None
    best_epoch: int = 0
    state: State = State.RUNNING
    reason: str | None = None


class Engine:
    """A study in progress. Every change is written to the journal before it takes effect."""

    def __init__(self, spec: StudySpec, journal: Journal) -> None:
        self.spec, self.journal = spec, journal
        self.trials: list[Trial] = []
        self._running: dict[int, Trial] = {}  # by number, as they began
        self._complete: list[Trial] = []  # the best first
        self._sampler = Sampler(spec.space, spec.seed)
        self._asha = Asha(spec.rungs, spec.reduction_factor)
        self._baselines: tuple[Baseline, ...] = spec.baselines
        self._replay(journal.stream())
        self._clean()
        # Trials that an earlier session left unfinished are served first, in their order.
        self._waiting = list(self._running)

    @property
    def optuna_trials(self) -> list[object]:
        """The sampler's view of all trials."""
        return list(self._sampler.trials)

    @property
    def to_start(self) -> int:
        """How many trials are still to be started, unfinished ones included."""
        return len(self._waiting) + max(0, self.spec.trials - len(self.trials))

    @property
    def running(self) -> list[Trial]:
        """Trials that began and did not end."""
        return list(self._running.values())

    def requeue(self) -> list[Trial]:
        """Puts all unfinished trials back in the queue, as after their workers were lost."""
        self._waiting = list(self._running)
        return self.running

    def put_back(self, number: int) -> None:
        """Makes a trial, whose worker was lost, the next one, unless it ended."""
        if self.trials[number].state is State.RUNNING:
            self._waiting.insert(0, number)

    def next_trial(self) -> Trial | None:
        """The trial to run next, or None: unfinished ones, the published baselines, the default, the sampler's."""
        if self._waiting:
            return self.trials[self._waiting.pop(0)]
        number = len(self.trials)
        if number >= self.spec.trials:
            return None
        baseline = self._baselines[number] if number < len(self._baselines) else None
        fixed: Mapping[str, Value] | None = None
        origin = "sampled"
        if baseline:
            origin, fixed = "published", baseline.params
        elif number == len(self._baselines):
            origin, fixed = "default", self.spec.space.default
        asked = self._sampler.ask(number, fixed)
        params = asked if fixed is None else dict(fixed)
        seed = derived_seed(self.spec.seed, number)
        trial = Trial(number, params, baseline.name if baseline else None, origin, seed)
        self.journal.started(number, params=params, baseline=trial.baseline, origin=origin, seed=seed)
        self._begin(trial)
        return trial

    def report(self, number: int, report: Row) -> Decision:
        """Takes an epoch's report, as a flat row; says what is to happen. Epochs already known change nothing.

        Published recipes and the default point are never stopped early: they are what the others are measured
        against. A trial whose patience ended is complete: its score would not have changed.
        """
        trial = self.trials[number]
        if trial.state is not State.RUNNING:
            return Decision.STOP
        if report["epoch"] <= trial.epoch:
            return Decision.CONTINUE
        assert report["epoch"] == trial.epoch + 1, f"trial {number}: epoch {report['epoch']} after {trial.epoch}"
        rung = report["epoch"] if report["epoch"] in self.spec.rungs else None
        if report["failure"] is not None:
            rung, decision = None, Decision.FAIL
        else:
            passes = self._asha.passes(report["epoch"], report["score"]) or trial.origin in UNSTOPPED
            last = report["epoch"] >= self.spec.max_epochs or report["ended"]
            if report["ended"]:
                self._asha.ends(report["epoch"], report["score"])
            decision = Decision.COMPLETE if last else Decision.CONTINUE if passes else Decision.STOP
        self.journal.epoch(number, report, rung, decision)
        self._note(trial, report)
        if decision in _ENDS:
            self._end(trial, _ENDS[decision], report["failure"])
        return decision

    def fail(self, number: int, reason: str) -> None:
        """Ends a trial that can give no more reports."""
        if self.trials[number].state is State.RUNNING:
            self._end(self.trials[number], State.FAILED, reason)

    def best(self) -> list[Trial]:
        """Trials at full fidelity, best first; of equals the earlier one."""
        return list(self._complete)

    def _begin(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._running[trial.number] = trial

    def _end(self, trial: Trial, state: State, reason: str | None) -> None:
        self.journal.ended(trial.number, state, reason)
        self._settle(trial, state, reason)
        self._clean()

    def _clean(self) -> None:
        """Keeps only checkpoints of live trials, and the weights of the best ones and of the baselines."""
        best = [trial.number for trial in self._complete[:KEPT_TRIALS]]
        baselines = [trial.number for trial in self.trials[: len(self._baselines)] if trial.baseline]
        self.journal.keep_weights([*best, *baselines], self._running)

    def _note(self, trial: Trial, report: Row) -> None:
        trial.epoch = report["epoch"]
        if report["failure"] is None:
            trial.score, trial.best_epoch = report["score"], report["best_epoch"]
            self._sampler.report(trial.number, trial.epoch, report["score"])

    def _settle(self, trial: Trial, state: State, reason: str | None) -> None:
        trial.state, trial.reason = state, reason
        del self._running[trial.number]
        if state is State.COMPLETE:
            assert trial.score is not None
            bisect.insort(self._complete, trial, key=lambda other: (-(other.score or 0.0), other.number))
            self._sampler.complete(trial.number, trial.score)
        elif state is State.PRUNED:
            self._sampler.prune(trial.number)
        else:
            self._sampler.fail(trial.number)

    def _replay(self, rows: Iterable[Row]) -> None:
        """Brings trials, sampler and rungs to where the journal's rows left them; decisions stand as taken."""
        decided: dict[int, tuple[Decision, str | None]] = {}
        for row in rows:
            if row["event"] == "started":
                self._sampler.ask(row["trial"], row["params"])
                self._begin(Trial(row["trial"], row["params"], row["baseline"], row["origin"], row["seed"]))
            elif row["event"] == "epoch":
                if row["failure"] is None:
                    self._asha.passes(row["epoch"], row["score"])
                    if row["ended"]:
                        self._asha.ends(row["epoch"], row["score"])
                self._note(self.trials[row["trial"]], row)
                decided[row["trial"]] = (Decision(row["decision"]), row["failure"])
            elif row["event"] == "ended":
                decided.pop(row["trial"], None)
                self._settle(self.trials[row["trial"]], State(row["state"]), row["reason"])
        # The process died between a decision and the line that ends the trial: the line is written now.
        for number, (decision, failure) in decided.items():
            if decision in _ENDS:
                self._end(self.trials[number], _ENDS[decision], failure)
