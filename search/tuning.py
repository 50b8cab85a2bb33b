"""Has Ray Tune carry out what the engine decides."""

import errno
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search import agents
from search.claim import mark
from search.engine import Decision, Engine
from search.machines import Machines
from search.slots import Resources
from search.worker import TrialWorker, taken
from trainables.errors import UserError

WORKER_RETRIES, NODE_RETRIES = 3, 12
log = logging.getLogger("etude")


def run_trials(
    engine: Engine, resources: Resources, halted: Callable[[], bool], machines: Machines | None = None
) -> None:
    """Runs the study's trials until none is left or `halted()`; raises UserError where it cannot go on.

    With `machines` as many at a time as they have room for while they come and go, else as `resources` say.
    Where Ray's memory monitor ends the search (it aborts everything, whatever `max_failures` says), the trials
    that were running go on one at a time, so that the one which needs too much is known, fails and is left out.
    Where Tune gives up for another reason it is started again, as long as that gets the study on.
    """
    alone, in_vain = False, 0
    gpus: dict[int, float] = {}
    while engine.to_start and not halted():
        before = engine.journal.length, sum(gpus.values())
        trials, concurrency = (len(engine.running), 1) if alone else (engine.to_start, resources.concurrency)
        words = "it ran nothing"
        try:
            link = _Link(engine, replace(resources, concurrency=concurrency), trials, gpus)
            _fit(link, halted, None if alone else machines)
            alone = False
        except _OutOfMemoryError as error:
            running = engine.requeue()
            log.warning("Ray's memory monitor ended the search with trials %s", [t.number for t in running])
            if alone or len(running) == 1:
                engine.fail(running[0].number, f"out of memory: ended by Ray's memory monitor ({error})")
            alone = len(running) > 1 or alone
        except _GaveUpError as error:
            log.warning("Ray Tune gave up", exc_info=error)
            words = str(error)
        alone = bool(engine.requeue()) and alone
        in_vain = in_vain + 1 if (engine.journal.length, sum(gpus.values())) == before else 0
        if in_vain > WORKER_RETRIES and not halted():
            raise UserError(
                f"Ray must run the study's trials, but gave up {in_vain} times in a row ({words}). The study's folder "
                f"logs has its words. Put that right and go on with --resume."
            )


class _GaveUpError(Exception):
    """Tune ended the search for a reason of its own."""


class _OutOfMemoryError(Exception):
    """Ray's memory monitor ended the search."""


def _fit(link: "_Link", halted: Callable[[], bool], machines: Machines | None) -> None:
    """One run of Tune over the trials that the link has left."""
    resources, trials = link.resources, link.left
    # Tune insists on a place for its own records, which nobody reads; what a killed run left there goes first.
    scratch = link.engine.journal.directory.absolute() / ".tune"
    shutil.rmtree(scratch, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(TrialWorker, partial(taken, resources.cpus_per_trial)),
        tune_config=tune.TuneConfig(
            search_alg=_Asking(link, machines.room if machines else lambda: resources.concurrency),
            scheduler=_Deciding(link),
            num_samples=-1,  # the link says when there are no more
            max_concurrent_trials=trials if machines else resources.concurrency,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[machines] if machines else None,
            stop=_Stopping(lambda: halted() or link.abort is not None),
            failure_config=tune.FailureConfig(max_failures=WORKER_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    try:
        with agents.needless():
            tuner.fit()
    except Exception as error:
        if link.abort is None:
            raise _reason(error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if link.abort is not None:
        raise link.abort


def _reason(error: Exception) -> Exception:
    """Why Tune ended the search; it wraps most errors in one of its own, some only as text."""
    words = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
    if _is_out_of_memory(error):
        return _OutOfMemoryError(words)
    if os.strerror(errno.ENOSPC) in str(error):
        return UserError(
            f"Ray needs room on this machine's disk, but there is none ({words}). Make room and go on with --resume."
        )
    return _GaveUpError(words)


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Link:
    """Between Tune's trial ids and the engine's trials. An error here must stop the search, not be lost in it.

    `left` is how many trials may still be started; `gpus` what those take that did not fit in a trial's share of one.
    """

    def __init__(self, engine: Engine, resources: Resources, left: int, gpus: dict[int, float]) -> None:
        self.engine, self.resources, self.left, self.gpus = engine, resources, left, gpus
        self.mark = mark(engine.journal.directory)
        self.numbers: dict[str, int] = {}
        self.deaths, self.losses = Counter[int](), Counter[int]()
        self.abort: Exception | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial as a configuration for its worker; None where there is none to start."""
        if self.abort is not None or not self.left:
            return None
        try:
            trial = self.engine.next_trial()
        except Exception as error:
            self.abort = error
            return None
        if trial is None:
            return None
        self.numbers[trial_id] = trial.number
        self.left -= 1
        return {
            "point": self.engine.spec.point(trial.params, trial.baseline, trial.seed),
            "study": str(self.engine.journal.directory.absolute()),
            "mark": self.mark,
            "folder": str(self.engine.journal.folder(trial.number).absolute()),
            "remote": self.engine.journal.checkpoint_address(trial.number),
            "reported": trial.epoch,
            "rungs": self.engine.spec.rungs,
            "memory_bytes": self.resources.memory_bytes,
            "gpus": self.gpus.get(trial.number, self.resources.gpus_per_trial),
        }

    def decide(self, trial_id: str, result: dict[str, Any]) -> Decision:
        """What the engine decides on a worker's result."""
        number = self.numbers[trial_id]
        try:
            if "abort" in result:
                raise UserError(
                    f"A trial must be able to read its data and save its progress, but trial {number} on "
                    f"{result['node']} could not: {result['abort'].rstrip('.')}. Put that right and go on with "
                    f"--resume."
                )
            if "lost" in result:
                if result["crowded"] and self._enlarge(number):
                    return Decision.STOP
                self.engine.fail(number, result["lost"])
                return Decision.FAIL
            before, decision = self.engine.trials[number].epoch, Decision.CONTINUE
            for report in result["reports"]:
                decision = self.engine.report(number, report)
                if decision is not Decision.CONTINUE:
                    break
            if self.engine.trials[number].epoch > before:
                # Only what happens again and again at the same epoch tells against the trial.
                self.deaths[number] = self.losses[number] = 0
            return decision
        except Exception as error:
            self.abort = error
            return Decision.STOP

    def _enlarge(self, number: int) -> bool:
        """Has a trial that ran out of a shared GPU's memory go on with twice the share; False where none is shared."""
        share = self.gpus.get(number, self.resources.gpus_per_trial)
        if not 0 < share < 1:
            return False
        self.gpus[number] = min(1.0, 2 * share)
        log.warning("Trial %s ran out of GPU memory; it goes on with %g of a GPU", number, self.gpus[number])
        self.engine.put_back(number)
        self.left += 1
        return True

    def lost(self, trial_id: str, words: str) -> int:
        """Takes in why Ray says that a worker was lost; what Tune is to count as failures since the last epoch.

        What happens to a node may happen to good trials, and is counted apart.
        """
        number = self.numbers[trial_id]
        if "creation task" in words and self.abort is None:
            self.abort = UserError(
                f"All nodes must have the same code and environment, but a worker could not be started "
                f"({words.strip().splitlines()[-1]}). Put that right and go on with --resume."
            )
        (self.deaths if "worker process has died" in words else self.losses)[number] += 1
        return WORKER_RETRIES if self.losses[number] >= NODE_RETRIES else self.deaths[number]

    def end(self, trial_id: str, error: bool) -> None:
        """A trial that Tune gave up on: fails if its workers died too often, else is taken up again.

        Tune also gives up on one whose worker was lost between two trials.
        """
        if not error or trial_id not in self.numbers or self.abort is not None:
            return
        number = self.numbers[trial_id]
        try:
            if self.deaths[number] > WORKER_RETRIES:
                self.engine.fail(number, f"its worker process died {self.deaths[number]} times")
            elif self.losses[number] > NODE_RETRIES:
                self.engine.fail(number, f"the node that it ran on was lost {self.losses[number]} times")
            else:
                self.engine.put_back(number)
                self.left += 1
        except Exception as problem:
            self.abort = problem


class _Unsaved:
    """Kept out of Tune's snapshots, which nothing reads: the journal is what a study resumes from."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Asking(_Unsaved, Searcher):
    """Asks the engine for the next trial while there is room for another."""

    def __init__(self, link: _Link, room: Callable[[], int]) -> None:
        super().__init__()
        self._link, self._room = link, room
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's configuration; None where there is no room for it yet."""
        if len(self._live) >= self._room():
            return None
        found = self._link.suggest(trial_id)
        if found is None:
            # Tune never asks again once it is told so, but what runs may have to be started once more.
            return None if self._live else Searcher.FINISHED  # type: ignore[return-value]
        self._live.add(trial_id)
        return found

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Passes on that a trial ended in error."""
        self._live.discard(trial_id)
        self._link.end(trial_id, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Deciding(_Unsaved, FIFOScheduler):
    """Hands every result to the engine and stops the trials that it ends."""

    def __init__(self, link: _Link) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._link = link

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        decision = self._link.decide(trial.trial_id, result)
        trial.run_metadata.num_failures = self._link.deaths[self._link.numbers[trial.trial_id]]
        return str(TrialScheduler.CONTINUE if decision is Decision.CONTINUE else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Drops what Tune would keep of every trial to the end: statistics, reports, settings. The journal has them."""
        trial.run_metadata.metric_n_steps.clear()
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.last_result.pop("reports", None)
        trial.config, trial.evaluated_params = {}, {}

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Has Tune count only what tells against the trial: that its process died, and not that its node did.

        Called a second time for the same loss, with a trial that is waiting again, when it came between two trials.
        """
        if trial.status != Trial.PENDING:
            trial.run_metadata.num_failures = self._link.lost(trial.trial_id, _last_error(trial))


def _last_error(trial: Trial) -> str:
    """What Ray said when the trial's worker was lost last; Tune itself hands it to nobody."""
    file = trial.error_file
    return Path(file).read_text(encoding="utf-8", errors="replace").rpartition("Failure # ")[2] if file else ""


class _Stopping(_Unsaved, tune.Stopper):
    """Stops the whole run when told."""

    def __init__(self, halted: Callable[[], bool]) -> None:
        self._halted = halted

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never for a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether everything is to stop."""
        return self._halted()
