"""What a trial costs the driver of a long study: time and memory at 100, 1,000 and 10,000 trials, as Markdown.

python benchmarks/scale.py [simulate] [resume] [proposals] [regret] [ray] [--trials 10000] [--slots 512] [--space blstm]

Without a word it does all of them, each in a process of its own; on two cores that takes an hour or more.
Times are processor time, since nothing else is comparable on a machine that others use too.

simulate   a study in as many slots as 64 nodes of 8 GPUs have, under a simulated clock: the real engine, sampler,
           scheduler, journal and view, made-up learning curves, nothing trained
resume     the same study's journal read again
proposals  what one proposal costs beside that many ended and running trials, with and without a bound
regret     how good the best trial is, with and without a bound
ray        trials that do nothing, through Ray Tune
"""

import argparse
import gc
import heapq
import io
import os
import random
import resource
import sys
import tempfile
import time
import unittest.mock
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import psutil
from meter import Meter
from rich.console import Console

import spaces
from search.engine import Engine, State
from search.progress import Terminal, View
from search.records import EPOCHS, TRIALS, Journal, Row, as_line, stream_rows
from search.searcher import REMEMBERED, Memory, Sampler
from spaces.domains import Choice, Param, Params, Space, Value
from tests.search.simulated import height, simulate, study

ROOT = Path(__file__).parent.parent
MARKS = (100, 500, 1_000, 2_000, 5_000, 10_000)
WINDOW = 100  # trials over which a mean is taken
REGRET_MARKS = (250, 500, 1_000, 1_500, 2_000)
UNBOUNDED = 10**9


def metered(engine: Engine, view: View, meter: Meter) -> None:
    """Counts the time of an engine's parts."""
    meter.wrap(engine._sampler, "ask", "report", "complete", "prune", "fail", part="sampler")
    meter.wrap(engine._asha, "passes", "ends", part="scheduler")
    meter.wrap(engine.journal, "_append", part="journal")
    meter.wrap(engine.journal, "keep_weights", part="checkpoints")
    engine.journal.listen = meter.counted(view.row, "view")
    meter.wrap(engine, "next_trial", "report", part="engine")


PARTS = ("sampler", "scheduler", "journal", "checkpoints", "view", "engine")


def rss_mb() -> int:
    """Megabytes of this process."""
    gc.collect()
    return round(psutil.Process().memory_info().rss / 1e6)


def simulated(directory: Path, space: str, trials: int, slots: int) -> list[list[object]]:
    """What the last hundred trials before each mark took; leaves a study of `slots` running trials behind."""
    spec = study(spaces.load(space), trials + slots)
    rows: list[list[object]] = []
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        view = View(Terminal(io.StringIO(), Console(file=nowhere)), spec, [])
        engine, meter = Engine(spec, Journal(directory)), Meter()
        metered(engine, view, meter)
        before, began, rows_before = Counter[str](), 0, 0
        for ended, _ in enumerate(simulate(engine, slots), start=1):
            if ended in {max(1, mark - WINDOW) for mark in MARKS}:
                meter.switch("rest")
                before, began, rows_before = Counter(meter.seconds), ended, engine.journal.length
            if ended in MARKS or ended == trials:
                meter.switch("rest")
                per = [1e3 * (meter.seconds[part] - before[part]) / (ended - began) for part in PARTS]
                lines = (engine.journal.length - rows_before) / (ended - began)
                shown = len(engine._sampler.memory.shown)
                rows.append([ended, f"{lines:.1f}", *(f"{ms:.2f}" for ms in per), f"{sum(per):.1f}", shown, rss_mb()])
                print(*rows[-1], file=sys.stderr, flush=True)
            if ended == trials:
                break
    engine.journal.close()
    return rows


def cut(source: Path, target: Path, ended: int) -> None:
    """A copy of a study as it was when so many trials had ended."""
    target.mkdir()
    left = ended
    with (target / TRIALS).open("wb") as trials, (target / EPOCHS).open("wb") as epochs:
        for row in heapq.merge(*(stream_rows(source / name) for name in (TRIALS, EPOCHS)), key=lambda row: row["seq"]):
            (epochs if row["event"] == "epoch" else trials).write(as_line(row))
            left -= row["event"] == "ended"
            if not left:
                return


def resumed(directory: Path, space: str) -> list[object]:
    """What it takes to stand again where a study was."""
    before = rss_mb()
    clock, worked = time.perf_counter(), time.process_time()
    engine = Engine(study(spaces.load(space), 1_000_000), Journal(directory))
    clock, worked = time.perf_counter() - clock, time.process_time() - worked
    rows = engine.journal.length
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    ended = len(engine.trials) - len(engine.running)
    return [f"{ended:,}", f"{rows:,}", f"{worked:.1f}", f"{1e6 * worked / rows:.0f}", before, rss_mb(), round(peak)]


def proposals(space: str, running: int, remembered: int) -> list[float]:
    """Milliseconds of one proposal beside `running` trials, at each mark of ended ones."""
    searched, rng, found, number = spaces.load(space), random.Random(0), [], 0
    sampler = Sampler(searched, 0, Memory(remembered))
    for mark in MARKS:
        while len(sampler.memory.everything()) < mark:
            sampler.ask(number, at_random(searched, rng))
            sampler.report(number, 1, rng.random())
            sampler.complete(number, rng.random()) if number % 10 == 0 else sampler.prune(number)
            number += 1
        first = number
        for number in range(first, first + running):
            sampler.ask(number, at_random(searched, rng))
        began = time.process_time()
        for number in range(first + running, first + running + 5):
            sampler.ask(number)
        found.append(1e3 * (time.process_time() - began) / 5)
        for one in range(first, number + 1):
            sampler.report(one, 1, rng.random())
            sampler.prune(one)
        number += 1
    return found


def at_random(space: Space, rng: random.Random) -> Params:
    """A point of a space."""

    def choose(param: Param) -> Value:
        domain = param.domain
        if isinstance(domain, Choice):
            return rng.choice(domain.options)
        return domain.nearest(rng.uniform(domain.low, domain.high))

    return space.walk(choose)


def regret(space: str, seed: int, remembered: int) -> list[float]:
    """How far below 1 the best trial is at each mark, 16 at a time, with ASHA; of the space's first ten parameters."""
    searched, best, found = spaces.load(space), 0.0, []
    searched = replace(searched, params=searched.params[:10])
    spec = replace(study(searched, REGRET_MARKS[-1], seed), with_baselines=False)

    def bounded(space: Space, seed: int) -> Sampler:
        return Sampler(space, seed, Memory(remembered))

    with tempfile.TemporaryDirectory() as folder, unittest.mock.patch("search.engine.Sampler", bounded):
        for ended, trial in enumerate(simulate(Engine(spec, Journal(Path(folder))), 16), start=1):
            if trial.state is State.COMPLETE:
                best = max(best, height(searched, trial.params))
            if ended in REGRET_MARKS:
                found.append(1 - best)
    return found


def through_ray(directory: Path, space: str, trials: int) -> list[list[object]]:
    """Trials that do nothing, two at a time, through Tune: what each hundred took."""
    from search import tuning
    from search.cluster import cluster
    from search.slots import Resources
    from tests.search.idle import IdleWorker

    os.environ |= {"PYTHONPATH": str(ROOT), "ETUDE_CACHE": str(directory / "cache")}
    spec = replace(study(spaces.load(space), trials), with_baselines=False)
    journal, rows = Journal(directory), []
    clock, worked, ended = [time.perf_counter()], [time.process_time()], 0

    def hear(row: Row) -> None:
        nonlocal ended
        ended += row["event"] == "ended"
        if row["event"] == "ended" and ended % (trials // 10) == 0:
            clock.append(time.perf_counter())
            worked.append(time.process_time())
            share = trials // 10
            wall, cpu = (1e3 * (times[-1] - times[-2]) / share for times in (clock, worked))
            rows.append([f"{ended:,}", f"{wall:.0f}", f"{cpu:.0f}", rss_mb()])

    journal.listen = hear
    with unittest.mock.patch.object(tuning, "TrialWorker", IdleWorker), cluster(None):
        tuning.run_trials(Engine(spec, journal), Resources(1, 0.0, 2), lambda: False)
    journal.close()
    return rows


def apart(function: Callable[..., Any], *args: object) -> Any:
    """The function's value, from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def table(title: str, names: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Prints a table in Markdown."""
    names = [str(name) for name in names]
    print(f"\n{title}\n\n| {' | '.join(names)} |\n|{'--:|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in row)} |", flush=True)


def main() -> None:
    """Prints the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["simulate", "resume", "proposals", "regret", "ray"])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=512)
    parser.add_argument("--space", default="blstm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ray-trials", type=int, default=1_000)
    given = parser.parse_args()
    marks = [mark for mark in MARKS if mark <= given.trials]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if {"simulate", "resume"} & set(given.what):
            rows = apart(simulated, root / "whole", given.space, given.trials, given.slots)
            names = ("trials ended", "rows each", *PARTS, "ms in all", "trials shown to TPE", "memory (MB)")
            table(f"Simulated: {given.space}, {given.slots} slots, ms per trial", names, rows)
        if "resume" in given.what:
            for mark in marks:
                cut(root / "whole", root / str(mark), mark)
            names = ("ended", "rows", "seconds", "µs per row", "MB before", "after", "peak")
            table("Resumed", names, [apart(resumed, root / str(mark), given.space) for mark in marks])
        if "proposals" in given.what:
            ways = [(running, shown) for shown in (UNBOUNDED, REMEMBERED) for running in (0, given.slots)]
            columns = [apart(proposals, given.space, running, shown) for running, shown in ways]
            names = [f"{'all' if shown == UNBOUNDED else shown} shown, {running} running" for running, shown in ways]
            rows = [[mark, *(f"{column[k]:.0f}" for column in columns)] for k, mark in enumerate(MARKS)]
            table("One proposal, ms", ("trials ended", *names), rows)
        if "regret" in given.what:
            cases = [(seed, shown) for seed in range(given.seeds) for shown in (UNBOUNDED, REMEMBERED)]
            rows = [
                [seed, "all" if shown == UNBOUNDED else shown, *(f"{x:.4f}" for x in regret(given.space, seed, shown))]
                for seed, shown in cases
            ]
            table("Regret", ("seed", "shown", *REGRET_MARKS), rows)
        if "ray" in given.what:
            rows = apart(through_ray, root / "ray", given.space, given.ray_trials)
            table("Through Ray", ("trials ended", "ms per trial", "of these the driver's processor", "driver MB"), rows)


if __name__ == "__main__":
    main()
