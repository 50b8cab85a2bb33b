"""Optuna as the source of hyperparameters, told the truth about every trial.

Ray's OptunaSearch tells Optuna that a trial which ASHA stopped is COMPLETE with its low-epoch value, and leaves
trials with a NaN objective RUNNING for ever; here each ends PRUNED at its step, or FAIL.
"""

import bisect
import copy
import warnings
from collections.abc import Container, Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from spaces.domains import Params, Space, Value

optuna.logging.set_verbosity(optuna.logging.WARNING)

# How many ended trials TPE looks at, and how many of these are the best; what a proposal costs grows with the former.
REMEMBERED, REMEMBERED_BEST = 500, 100


class Sampler:
    """An in-memory Optuna study over a space.

    What it proposes for trial n depends on the seed, on n and on what it was told, never on how often it was
    asked: each proposal has a random state of its own. So it is enough to tell a new sampler the old history,
    without asking again, to have it go on as if nothing had happened.

    Of a long study it is the best, the latest and the running trials that a proposal depends on: see `Memory`.
    """

    def __init__(self, space: Space, seed: int, memory: "Memory | None" = None) -> None:
        self._space, self._seed = space, seed
        self.memory = memory or Memory()
        self._study = optuna.create_study(
            storage=self.memory, direction="maximize", sampler=optuna.samplers.RandomSampler(seed)
        )
        self._running: dict[int, optuna.Trial] = {}

    def ask(self, number: int, fixed: Mapping[str, Value] | None = None) -> Params:
        """The sampler's proposal for trial `number`; where `fixed` is given, the point of the space nearest to it.

        A published recipe may lie outside: its 4 seconds on a corpus of 2 are 2 seconds and silence.
        """
        if fixed is not None:
            self._study.enqueue_trial(self._space.nearest(fixed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Each parameter by itself: with few trials of many conditional ones, that finds more than jointly (LOG).
            self._study.sampler = optuna.samplers.TPESampler(
                seed=derived_seed(self._seed, number), multivariate=False, constant_liar=True
            )
        trial = self._study.ask()
        assert trial.number == number, f"trial {number} must follow trial {trial.number - 1}"
        self._running[number] = trial
        return self._space(trial)

    def report(self, number: int, epoch: int, score: float) -> None:
        """Tells an intermediate score."""
        self._running[number].report(score, epoch)

    def complete(self, number: int, score: float) -> None:
        """Tells that a trial reached full length, with its score."""
        self._study.tell(self._running.pop(number), score)

    def prune(self, number: int) -> None:
        """Tells that the scheduler stopped a trial; its value is that of the last reported epoch."""
        self._study.tell(self._running.pop(number), state=TrialState.PRUNED)

    def fail(self, number: int) -> None:
        """Tells that a trial has no value."""
        self._study.tell(self._running.pop(number), state=TrialState.FAIL)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Optuna's view of all trials, for tests and plots."""
        return self.memory.everything()


class Memory(optuna.storages.InMemoryStorage):
    """Optuna's trials of one study in memory, of which the sampler of a long one sees a bounded number.

    TPE goes through all trials that it is shown, once for each parameter, at every proposal. Shown are those
    that run and, of those that ended with a value, the `best` (as TPE ranks them: full length first, then those that
    came farthest) and the `remembered - best` with the highest numbers of the others. That depends on what was told
    and not on the order of telling. Up to `remembered` it is all of them. What is never shown again keeps its state
    and its value, but no params.
    """

    def __init__(self, remembered: int = REMEMBERED, best: int = REMEMBERED_BEST) -> None:
        super().__init__()
        self._room_for_best, self._room_for_others = best, remembered - best
        self._best: list[tuple[float, float, int]] = []
        self._others: list[int] = []
        self._running: set[int] = set()
        self._created = 0
        self._distributions: dict[tuple[str, BaseDistribution], BaseDistribution] = {}

    def everything(self) -> list[FrozenTrial]:
        """All trials, those too that are not shown."""
        return [self.get_trial(number) for number in range(self._created)]

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As the base class does; a new trial is shown."""
        trial_id = super().create_new_trial(study_id, template_trial)
        self._running.add(trial_id)
        self._created += 1
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As the base class does; what ends takes its place among the others."""
        changed = super().set_trial_state_values(trial_id, state, values)
        if state.is_finished():
            self._running.discard(trial_id)
            trial = self.get_trial(trial_id)
            if gone := trial if state is TrialState.FAIL else self._displaced_by(trial):
                gone.params, gone.distributions, gone.system_attrs = {}, {}, {}
        return changed

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """As the base class does; equal distributions of all trials are one object."""
        shared = self._distributions.setdefault((param_name, distribution), distribution)
        super().set_trial_param(trial_id, param_name, param_value_internal, shared)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials that the sampler may look at, by number."""
        if states == (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        everything = super().get_all_trials(study_id, deepcopy=False)
        shown = [everything[number] for number in self.shown]
        found = [trial for trial in shown if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    @property
    def shown(self) -> list[int]:
        """The numbers of the trials that the sampler may look at."""
        return sorted((*(number for _, _, number in self._best), *self._others, *self._running))

    def _displaced_by(self, trial: FrozenTrial) -> FrozenTrial | None:
        """Puts a trial that ended in its place; the one that is never shown again because of it."""
        bisect.insort(self._best, _rank(trial))
        if len(self._best) > self._room_for_best:
            bisect.insort(self._others, self._best.pop()[-1])
        return self.get_trial(self._others.pop(0)) if len(self._others) > self._room_for_others else None


def _rank(trial: FrozenTrial) -> tuple[float, float, int]:
    """A key by which trials that ended with a value sort as TPE ranks them, the best first, of equals the earlier."""
    steps = -float("inf") if trial.state is TrialState.COMPLETE else -float(trial.last_step or 0)
    return steps, -(trial.value or 0.0), trial.number


def derived_seed(seed: int, number: int) -> int:
    """An independent seed for one trial of a study."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
