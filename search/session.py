"""One process's work on a study: from the open journal to the scored winner, however it is interrupted."""

import contextlib
import importlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from search.disk import check_disk, checkpoint_bytes, is_roomy
from search.engine import Engine
from search.mirror import Mirror, address_of, mirror_of
from search.options import HERE, Corpus, Options
from search.progress import Terminal, View, bar, quiet
from search.records import SPEC, SUMMARY, Journal, Row, elapsed_seconds
from search.study import StudySpec, commit, record, versions
from search.summary import resume_command, summary
from spaces.domains import Params
from trainables.errors import UserError
from trainables.files import read_json, write_json

# What a resumed session takes over from the one before, where the command line leaves it out.
KEPT = ("budget", "concurrency", "gpus_per_trial", "address")


@dataclass
class Halt:
    """Whether the study is to stop where it is, and why: `interrupted` by the user, or its budget `spent`."""

    deadline: float | None
    interrupted: bool = False
    stops: int = field(default=0)

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self.deadline is not None and time.time() >= self.deadline

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.interrupted or self.spent

    @contextlib.contextmanager
    def on_signals(self, view: View, resume: str) -> Iterator[None]:
        """Takes the first Ctrl-C or termination as a wish to stop; the second one ends the process at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stops += 1
            if self.stops > 1:
                try:
                    view.leave(resume)
                finally:  # whoever read the output may have gone
                    os._exit(130)
            self.interrupted = True
            view.note("Stopping: takes up to ten seconds, in which what was trained is saved. Once more stops at once.")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_session(given: Options, spec: StudySpec, directory: Path, corpus: Corpus, terminal: Terminal) -> dict[str, Any]:
    """Runs the study until it is done, interrupted or out of budget; the summary of how it stands.

    Its `state` is "finished", "interrupted" or "failed"; raises UserError where it cannot go on. A study that
    could not even begin leaves no directory behind.
    """
    begun = (directory / SPEC).exists()
    mirror = mirror_of(directory)
    if mirror:
        mirror.say = terminal.say
        mirror.lock()
    try:
        if mirror:
            mirror.fetch_study()
        return _run(given, spec, directory, corpus, terminal, mirror, begun)
    finally:
        if mirror:
            mirror.unlock()


def _run(
    given: Options,
    spec: StudySpec,
    directory: Path,
    corpus: Corpus,
    terminal: Terminal,
    mirror: Mirror | None,
    begun: bool,
) -> dict[str, Any]:
    journal = Journal(directory, mirror=mirror)
    if not given.resume and (directory / SPEC).exists():
        journal.close()
        raise UserError(
            f"A study's name must be new, but another process has begun {address_of(directory)} meanwhile. Choose "
            f"another --name."
        )
    try:
        given = as_before(given, journal.rows)
        write_study(directory, spec, corpus)
        if mirror:
            mirror.push_all()
        spent = elapsed_seconds(journal.rows)
        engine = Engine(spec, journal)
        halt = Halt(time.time() + given.budget - spent if given.budget else None)
        view = View(terminal, spec, journal.rows)
        journal.listen = view.row
        journal.session(
            trials=spec.trials, options={n: getattr(given, n) for n in KEPT}, commit=commit(), versions=versions()
        )
        refused = False
        try:
            if engine.to_start and not halt():
                _search(given, spec, corpus, engine, halt, view, terminal)
            if not halt.interrupted:
                return _finish(engine, halt, terminal)
        except KeyboardInterrupt:
            # While Ray starts, or while the winner is scored: all that was done is in the journal.
            pass
        except UserError:
            refused = True
            raise
        finally:
            journal.session_ended(refused=refused)
            if mirror:
                mirror.gather()
        found = summary(engine, "interrupted", finished=None, wall_seconds=elapsed_seconds(journal.rows))
        write_json(directory / SUMMARY, found)
        if mirror:
            mirror.push(SUMMARY)
        return found
    except (OSError, UserError) as error:
        refused = isinstance(error, OSError) and not isinstance(error, ConnectionError)
        # Once the first row, which holds the options, is written, there is a study to go on with.
        begun = begun or (journal.length > 0 if refused else any(row["event"] == "started" for row in journal.rows))
        if not begun:
            shutil.rmtree(directory)
            if mirror:
                mirror.withdraw()
        if not refused:
            raise
        raise UserError(
            f"A study's directory must be writable, but {getattr(error, 'filename', None) or directory} is not "
            f"({getattr(error, 'strerror', None) or error}). Put that right and "
            f"{'go on with --resume; nothing is lost' if begun else 'begin again'}."
        ) from error
    finally:
        journal.close()


def as_before(given: Options, rows: list[Row]) -> Options:
    """The options, with those that were left out as they were in the session before.

    A session that was refused before it trained does not count: nobody has to take back what it asked for, such as a
    GPU that no machine has.
    """
    before: dict[str, Any] = {}
    previous, trained = before, False
    for row in rows:
        if row["event"] == "session":
            previous, before, trained = before, row.get("options", {}), False
        elif row["event"] == "session ended" and row.get("refused") and not trained:
            before = previous or before
        else:
            trained = trained or row["event"] == "epoch"
    found = replace(given, **{n: value for n, value in before.items() if getattr(given, n) is None})
    return replace(found, address=None) if found.address == HERE else found


def write_study(directory: Path, spec: StudySpec, corpus: Corpus) -> None:
    """Writes `study.json` and the lists of what was wrong with the corpus, before the first trial.

    Resuming changes no more than what the specification says now; under which commit and versions a session ran
    is in its row of the journal.
    """
    assert corpus.store is not None
    path = directory / SPEC
    now = {**read_json(path), **spec.to_json()} if path.exists() else record(spec, corpus.store, corpus.split)
    write_json(path, now)
    corpus.store.quarantine.to_csv(directory / "quarantine.csv", index=False)
    corpus.store.repairs.to_csv(directory / "repairs.csv", index=False)


def _compute_descriptors(spec: StudySpec, corpus: Corpus, terminal: Terminal) -> None:
    """Hand-crafted features take a while: they are computed before the first trial, with a bar, and cached.

    Which points have some is told by Torch's side, so it is asked only of those that name their statistics.
    """
    points: list[tuple[Params, str | None]] = [(dict(b.params), b.name) for b in spec.baselines]
    points += [] if spec.only else [(dict(spec.space.default), None)]
    named = [(params, baseline) for params, baseline in points if "statistics" in {**spec.space.settings, **params}]
    kinds = {spec.config(params, baseline, spec.seed).features.kind for params, baseline in named}
    if "vector" in kinds:
        from trainables.features import vector

        assert corpus.store is not None
        with bar(terminal) as progress:
            vector.table(corpus.store, progress)


@contextlib.contextmanager
def running_ray(address: str | None, log_file: Path, terminal: Terminal) -> Iterator[None]:
    """A running Ray, whose own words go to a file; starting it, which takes seconds, is shown.

    Tune is imported while Ray waits for its processes. For all but the first of several studies both are there already.
    """
    address = None if address == HERE else address
    with quiet(log_file), contextlib.ExitStack() as stack:
        ray = sys.modules.get("ray")
        begun = ray is not None and ray.is_initialized()
        words = "Starting Ray …" if not address else f"Joining Ray at {address} …"
        with contextlib.nullcontext() if begun else terminal.busy(words), ThreadPoolExecutor(1) as other:
            from search.cluster import cluster

            tuning = other.submit(importlib.import_module, "search.tuning")
            stack.enter_context(cluster(address))
            tuning.result()
        yield


def _search(
    given: Options, spec: StudySpec, corpus: Corpus, engine: Engine, halt: Halt, view: View, terminal: Terminal
) -> None:
    directory = engine.journal.directory
    if spec.only and not given.address:
        from search.preflight import check_fits

        check_fits(spec, corpus)
    log_file = directory / "logs" / "search.log"
    with running_ray(given.address, log_file, terminal):
        from search.machines import Machines
        from search.tuning import run_trials
        from search.watch import watched

        _compute_descriptors(spec, corpus, terminal)
        machines = Machines(
            spec.cpus_per_trial,
            given.gpus_per_trial,
            given.concurrency,
            joined=given.address is not None,
            say=terminal.say,
        )
        resume = resume_command(directory)
        with watched(partial(_leave, terminal, engine, resume)):
            resources = machines.resources()
            machines.say = view.note
            if given.address or resources.gpus_per_trial or not is_roomy(directory, spec, resources.concurrency):
                _check_disk(directory, spec, corpus, resources.concurrency)
            (directory / SUMMARY).unlink(missing_ok=True)  # it tells of the session before
            with view.shown(), halt.on_signals(view, resume), _torch_in_time(engine):
                run_trials(engine, resources, halt, machines)
                advice = machines.advice()
            if advice:
                terminal.say(advice)


@contextlib.contextmanager
def _torch_in_time(engine: Engine) -> Iterator[None]:
    """Has Torch, which scoring the winner takes, imported beside the last trials.

    That takes seconds of a core: sooner, trials would be slower for it, later, scoring would wait for it. It is over
    before Ray is shut down: Ray ends the process where another thread lets go of something of its afterwards.
    """
    over = threading.Event()

    def wait() -> None:
        while engine.to_start and not over.wait(0.1):
            pass
        if not over.is_set():
            importlib.import_module("trainables.evaluate")

    importing = threading.Thread(target=wait, daemon=True)
    importing.start()
    try:
        yield
    finally:
        over.set()
        importing.join()


def _check_disk(directory: Path, spec: StudySpec, corpus: Corpus, slots: int) -> None:
    from search.preflight import most_parameters

    check_disk(directory, checkpoint_bytes(spec, most_parameters(spec, corpus), slots))


def _leave(terminal: Terminal, engine: Engine, resume: str, why: str) -> None:
    """Ends the process where Ray is lost and would never let it go on; what was done is in the journal."""
    try:
        with contextlib.suppress(OSError):  # whoever read the output may have gone
            terminal.console.show_cursor(True)
            terminal.console.file.write(
                f"\n{why} What was done is kept. Once the cluster runs again, go on with:\n  {resume}\n"
            )
            terminal.console.file.flush()
        if engine.journal.mirror:
            engine.journal.mirror.abandon()
    finally:
        os._exit(2)


def _finish(engine: Engine, halt: Halt, terminal: Terminal) -> dict[str, Any]:
    from search.finish import finish

    if halt.spent and (left := engine.to_start):
        terminal.say(
            f"The budget is spent with {left} trials to go; --resume with a larger --budget goes on with them."
        )
    with terminal.console.status("Scoring the chosen trial and the baselines …"):
        finished = finish(engine)
    state = "finished" if finished["best"] else "failed"
    wall_seconds = elapsed_seconds(engine.journal.rows)
    found = summary(engine, state, finished=finished, wall_seconds=wall_seconds)
    write_json(engine.journal.directory / SUMMARY, found)
    if mirror := engine.journal.mirror:
        with terminal.busy(f"Putting what came out into {mirror.remote.address} …"):
            mirror.push_all()
    return found
