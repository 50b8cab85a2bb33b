"""Optuna as the source of hyperparameters, told the truth about every trial.

Ray's OptunaSearch tells Optuna that a trial which ASHA stopped is COMPLETE with its low-epoch value, and leaves
trials with a NaN objective RUNNING for ever; here each ends PRUNED at its step, or FAIL.
"""

import warnings
from collections.abc import Mapping

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from spaces.domains import Params, Space, Value

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Sampler:
    """An in-memory Optuna study over a space.

    What it proposes for trial n depends on the seed, on n and on what it was told, never on how often it was
    asked: each proposal has a random state of its own. So it is enough to tell a new sampler the old history,
    without asking again, to have it go on as if nothing had happened.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed
        self._study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed))
        self._running: dict[int, optuna.Trial] = {}

    def ask(self, number: int, fixed: Mapping[str, Value] | None = None) -> Params:
        """The sampler's proposal for trial `number`; where `fixed` is given, the point of the space nearest to it.

        A published recipe may lie outside: its 4 seconds on a corpus of 2 are 2 seconds and silence.
        """
        if fixed is not None:
            self._study.enqueue_trial(self._space.nearest(fixed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(
                seed=derived_seed(self._seed, number), multivariate=True, group=True, constant_liar=True
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
        return self._study.get_trials()


def derived_seed(seed: int, number: int) -> int:
    """An independent seed for one trial of a study."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
