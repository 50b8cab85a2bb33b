"""Ray behind one door: starting or joining a cluster and having Tune carry out what the engine decides."""

import contextlib
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search.engine import Decision, Engine
from search.trial import REPORTED, TrialWorker
from trainables.errors import UserError

WORKER_RETRIES = 3
_ADDRESS_SECONDS = 5
_OBJECT_STORE_BYTES = 150_000_000
log = logging.getLogger("etude")


@dataclass(frozen=True)
class Resources:
    """What trials run on: cores and GPUs of each, how many at a time, and the memory that bounds each.

    `memory_bytes` None means a trial's share of its node.
    """

    cpus_per_trial: int
    gpus_per_trial: float
    concurrency: int
    memory_bytes: int | None = None


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """A running Ray: that of the process if there is one, the one at `address`, or a local one for the time."""
    if address is not None:
        _check_reachable(address)
    if ray.is_initialized():
        yield
        return
    # Nobody but the study reads Tune's result files; the study directory holds everything.
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")
    # Tune warns at every end that it finds no result files, which it was told not to write.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            # Nothing goes through the object store: corpora are mapped from the disk, reports are a few numbers.
            object_store_memory=None if address else _OBJECT_STORE_BYTES,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        raise UserError(
            f"--address must name a running Ray cluster, but {address!r} could not be joined "
            f"({str(error).splitlines()[0]}). Start one with `ray start --head`, or leave --address out."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises UserError at once where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ADDRESS_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"--address must name a running Ray cluster, but nothing answers at {address} "
            f"({error.strerror or error}). Start one with `ray start --head`, or leave --address out."
        ) from error


def fitting(cpus_per_trial: int, gpus_per_trial: float | None, concurrency: int | None) -> Resources:
    """Resources that the running cluster can give to at least one trial; raises UserError.

    With GPUs in the cluster a trial takes one unless told otherwise; with none, a core is all it takes.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most_gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    most_cpus = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    gpus = (1.0 if most_gpus else 0.0) if gpus_per_trial is None else gpus_per_trial
    if gpus > most_gpus:
        raise UserError(
            f"A trial must fit one node, but --gpus-per-trial is {gpus:g} and the node with the most GPUs has "
            f"{most_gpus:g}. Ask for at most that."
        )
    if cpus_per_trial > most_cpus:
        raise UserError(
            f"A trial must fit one node, but --cpus-per-trial is {cpus_per_trial} and the node with the most cores "
            f"has {most_cpus:g}. Ask for at most that."
        )
    slots = sum(
        int(min(node.get("CPU", 0) / cpus_per_trial, node.get("GPU", 0) / gpus if gpus else float("inf")) + 1e-6)
        for node in nodes
    )
    return Resources(cpus_per_trial, gpus, min(concurrency or slots, slots))


def run_trials(engine: Engine, resources: Resources, halted: Callable[[], bool]) -> None:
    """Runs the study's trials until none is left or `halted()`; raises UserError where it cannot go on.

    Where Ray's memory monitor ends the search (it aborts everything, whatever `max_failures` says), the trials
    that were running go on one at a time, so that the one which needs too much is known, fails and is left out.
    """
    alone = False
    while engine.to_start and not halted():
        before = len(engine.journal.rows)
        suspects = len(engine.running) if alone else 0
        try:
            _fit(
                engine,
                resources,
                halted,
                trials=suspects or engine.to_start,
                concurrency=1 if alone else None,
            )
            alone = False
        except _OutOfMemoryError as error:
            running = engine.requeue()
            log.warning("Ray's memory monitor ended the search with trials %s", [t.number for t in running])
            if alone or len(running) == 1:
                engine.fail(_current(engine), f"out of memory: ended by Ray's memory monitor ({error})")
                engine.requeue()
            alone = bool(engine.running)
            continue
        engine.requeue()
        if len(engine.journal.rows) == before and not halted():
            raise RuntimeError("Ray Tune returned without having run a single epoch")


class _OutOfMemoryError(Exception):
    """Ray's memory monitor ended the search."""


def _current(engine: Engine) -> int:
    return engine.running[0].number


def _fit(
    engine: Engine, resources: Resources, halted: Callable[[], bool], *, trials: int, concurrency: int | None
) -> None:
    """One run of Tune over at most `trials` trials."""
    link = _Link(engine, resources.memory_bytes)
    # Tune insists on a place for its own records, which nobody reads; what a killed run left there goes first.
    scratch = engine.journal.directory.absolute() / ".tune"
    shutil.rmtree(scratch, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(TrialWorker, {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial}),
        tune_config=tune.TuneConfig(
            search_alg=_Asking(link),
            scheduler=_Deciding(link),
            num_samples=trials,
            max_concurrent_trials=concurrency or resources.concurrency,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch),
            verbose=0,
            stop=_Stopping(lambda: halted() or link.abort is not None),
            failure_config=tune.FailureConfig(max_failures=WORKER_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        if _is_out_of_memory(error):
            raise _OutOfMemoryError(str(error).splitlines()[0][:200]) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if link.abort is not None:
        raise link.abort


def _is_out_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Link:
    """Between Tune's trial ids and the engine's trials. An error here must stop the search, not be lost in it."""

    def __init__(self, engine: Engine, memory_bytes: int | None) -> None:
        self.engine, self.memory_bytes = engine, memory_bytes
        self.numbers: dict[str, int] = {}
        self.abort: Exception | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial as a configuration for its worker; None where there is none to start."""
        if self.abort is not None:
            return None
        try:
            trial = self.engine.next_trial()
        except Exception as error:
            self.abort = error
            return None
        if trial is None:
            return None
        self.numbers[trial_id] = trial.number
        config = self.engine.spec.config(trial.params, trial.baseline, trial.seed)
        folder = self.engine.journal.folder(trial.number).absolute()
        return {
            "trial": trial.number,
            "config": config.to_json(),
            "folder": str(folder),
            "remote": self.engine.journal.checkpoint_address(trial.number),
            "reported": trial.epoch,
            "memory_bytes": self.memory_bytes,
        }

    def decide(self, trial_id: str, result: dict[str, Any]) -> Decision:
        """What the engine decides on a worker's result."""
        number = self.numbers[trial_id]
        try:
            if "abort" in result:
                raise UserError(
                    f"A trial must be able to read its data and save its progress, but trial {number} could not: "
                    f"{result['abort'].rstrip('.')}. Put that right and go on with --resume."
                )
            if "lost" in result:
                self.engine.fail(number, result["lost"])
                return Decision.FAIL
            return self.engine.report(number, {name: result[name] for name in REPORTED if name in result})
        except Exception as error:
            self.abort = error
            return Decision.STOP

    def end(self, trial_id: str, error: bool) -> None:
        """A trial that Tune gave up on: its worker died once too often."""
        if error and trial_id in self.numbers and self.abort is None:
            reason = f"its worker process died {WORKER_RETRIES + 1} times"
            try:
                self.engine.fail(self.numbers[trial_id], reason)
            except Exception as problem:
                self.abort = problem


class _Unsaved:
    """Kept out of Tune's snapshots, which nothing reads: the journal is what a study resumes from."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Asking(_Unsaved, Searcher):
    """Asks the engine for the next trial."""

    def __init__(self, link: _Link) -> None:
        super().__init__()
        self._link = link

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's configuration."""
        found = self._link.suggest(trial_id)
        return Searcher.FINISHED if found is None else found  # type: ignore[return-value]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Passes on that a trial ended in error."""
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
        return str(TrialScheduler.CONTINUE if decision is Decision.CONTINUE else TrialScheduler.STOP)


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
