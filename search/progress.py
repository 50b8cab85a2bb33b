"""What the person at the terminal sees: one live view on a terminal, one plain line per event elsewhere."""

import contextlib
import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from search.records import Row
from search.study import StudySpec, expected_epochs

_RATE_WINDOW_SECONDS = 120.0
_RUNNING_SHOWN = 12


@dataclass
class Terminal:
    """Where the program speaks: `out` for results, `console` for progress.

    Both are copies of the standard streams, made first, so that everything else (Ray's and Optuna's own
    chatter, also that of their native code) can be sent to a log file by `quiet`.
    """

    out: IO[str]
    console: Console

    @classmethod
    def open(cls, *, progress_on_stderr: bool) -> "Terminal":
        """Copies of the standard streams; progress goes to standard error where output is for a program."""
        out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
        err = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        file = err if progress_on_stderr else out
        # Where nobody looks, a line is a line, however long; on a terminal words are kept whole.
        return cls(out, Console(file=file, highlight=False, soft_wrap=not file.isatty()))

    @contextlib.contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Shows that something takes its time: something that moves on a terminal, a line elsewhere."""
        if not self.console.is_terminal:
            self.say(text)
            yield
            return
        with self.console.status(Text(text)):
            yield

    def say(self, text: str) -> None:
        """One line, unstyled; a reader that has gone, or one who interrupts a line, stops nothing."""
        # Rich makes an exit of a broken pipe; Python refuses to write while a signal has interrupted writing.
        with contextlib.suppress(OSError, SystemExit, RuntimeError):
            self.console.print(Text(printable(text)))

    def show(self, words: RenderableType) -> None:
        """Words and tables; what is `unbroken` among them is not cut at the window's edge."""
        self.console.print(Group(words), crop=False)  # a text by itself would be joined to others, and broken


@contextlib.contextmanager
def quiet(log_file: Path) -> Iterator[None]:
    """Sends both standard streams, logging and warnings to a file, down to native code."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(1), os.dup(2)]
    with log_file.open("a", encoding="utf-8") as log:
        handler = logging.StreamHandler(log)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        logging.captureWarnings(True)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, saved in zip((1, 2), before, strict=True):
                os.dup2(saved, target)
                os.close(saved)
            logging.captureWarnings(False)
            root.removeHandler(handler)


@contextlib.contextmanager
def bar(terminal: Terminal) -> "Iterator[ProgressBar]":
    """A progress bar for work of known size, or a plain line every ten seconds where there is no terminal."""
    found = ProgressBar(terminal)
    try:
        yield found
    finally:
        found.close()


class ProgressBar:
    """Called as `bar(stage, done, total)`; one bar per stage."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._spoke = time.monotonic()
        self._tasks: dict[str, int] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=terminal.console, transient=True)
        self._live = terminal.console.is_terminal
        self._open = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` of a stage is done."""
        if not self._live:
            if time.monotonic() - self._spoke > 10:
                self._spoke = time.monotonic()
                self._terminal.say(f"{stage}: {done} of {total}" if total else stage)
            return
        if not self._open:
            self._bars.start()
            self._open = True
        if stage not in self._tasks:
            self._tasks[stage] = int(self._bars.add_task(stage, total=total or None))
        self._bars.update(self._tasks[stage], completed=done, total=total or None)  # type: ignore[arg-type]

    def close(self) -> None:
        """Takes the bars away."""
        if self._open:
            self._bars.stop()


@dataclass
class Tally:
    """A study's state, folded from the rows of its journal."""

    spec: StudySpec
    running: dict[int, Row] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    stopped_at: Counter[int] = field(default_factory=Counter)
    epochs: int = 0
    started: int = 0
    best: Row | None = None
    leading: Row | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    recent: deque[float] = field(default_factory=deque)

    def add(self, row: Row) -> None:
        """Takes in one row."""
        if row["event"] == "started":
            self.started += 1
            self.names[row["trial"]] = trial_name(row)
            self.running[row["trial"]] = {"epoch": 0, "score": None}
        elif row["event"] == "epoch":
            self.epochs += 1
            self.recent.append(row["time"])
            self._forget(row["time"])
            self.running[row["trial"]] = row
            if row["failure"] is None and (self.leading is None or row["score"] > self.leading["score"]):
                self.leading = row
            # Of equals the earlier trial is chosen, whichever ended first.
            key = (row["score"] or 0.0, -row["trial"])
            if row["decision"] == "complete" and (self.best is None or key > (self.best["score"], -self.best["trial"])):
                self.best = row
            if row["decision"] == "stop":
                self.stopped_at[row["epoch"]] += 1
            if row["failure"] is None and not self.names[row["trial"]].startswith("trial "):
                self.baselines[self.names[row["trial"]]] = row["score"]
        elif row["event"] == "ended":
            self.running.pop(row["trial"], None)
            self.ended[row["state"]] += 1

    def epochs_per_second(self, now: float) -> float | None:
        """The rate over the last two minutes; None before it can be known."""
        self._forget(now)
        return len(self.recent) / max(now - self.recent[0], 1.0) if len(self.recent) > 1 else None

    def _forget(self, now: float) -> None:
        while self.recent and now - self.recent[0] > _RATE_WINDOW_SECONDS:
            self.recent.popleft()

    def seconds_left(self, now: float) -> float | None:
        """A rough estimate: the epochs expected of all trials, less those done, at the present rate."""
        rate = self.epochs_per_second(now)
        done = sum(self.ended.values())
        share_left = max(0.0, 1 - (done + 0.5 * len(self.running)) / max(1, self.spec.trials))
        expected = sum(expected_epochs(self.spec))
        left = max(expected - self.epochs, share_left * expected)
        return left / rate if rate else None


class View:
    """Shows a study while it runs. Call `row` with every row of the journal."""

    def __init__(self, terminal: Terminal, spec: StudySpec, past: list[Row]) -> None:
        self._terminal, self._spec = terminal, spec
        self.tally = Tally(spec)
        for row in past:
            self.tally.add(row)
        self.tally.recent.clear()
        self._note = ""
        self._live = Live(
            get_renderable=self._render,
            console=terminal.console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the live view for the time, on a terminal."""
        if not self._terminal.console.is_terminal:
            yield
            return
        with self._live:
            yield

    def leave(self, resume: str) -> None:
        """Gives the terminal its cursor back and says how to go on, for a process that ends at once."""
        self._terminal.console.show_cursor(True)
        self._terminal.console.file.write(f"\nInterrupted. Go on with:\n  {resume}\n")
        self._terminal.console.file.flush()

    def note(self, text: str) -> None:
        """A sentence that stays in view, or a line."""
        self._note = text
        if not self._terminal.console.is_terminal:
            self._terminal.say(text)

    def row(self, row: Row) -> None:
        """Takes in one row and, where there is no terminal, says it."""
        self.tally.add(row)
        if not self._terminal.console.is_terminal and (line := self._line(row)):
            self._terminal.say(line)

    def _line(self, row: Row) -> str | None:
        if row["event"] not in ("started", "epoch", "ended"):
            return None
        clock = time.strftime("%H:%M:%S", time.localtime(row["time"]))
        name = self.tally.names[row["trial"]]
        if row["event"] == "started":
            return f"{clock} {name} started"
        if row["event"] == "ended":
            reason = f": {row['reason']}" if row["reason"] else ""
            return f"{clock} {name} {row['state']}{reason}"
        if row["failure"]:
            return None
        return (
            f"{clock} {name} epoch {row['epoch']}/{self._spec.max_epochs} "
            f"tune {row['tune_balanced_accuracy']:.4f} best {row['score']:.4f}"
        )

    def _render(self) -> Group:
        tally, spec, now = self.tally, self._spec, time.time()
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column()
        ended = sum(tally.ended.values())
        waiting = max(0, spec.trials - ended - len(tally.running))
        grid.add_row("trials", f"{ended} done · {len(tally.running)} running · {waiting} to come")
        ends = [f"{tally.ended['complete']} at full length ({spec.max_epochs} epochs)"]
        ends += [f"{n} stopped at {epoch}" for epoch, n in sorted(tally.stopped_at.items())]
        ends += [f"{tally.ended['failed']} failed"] if tally.ended["failed"] else []
        grid.add_row("ended", " · ".join(ends))
        # Only trials at full length can be chosen; before there is one, the highest score is all there is to show.
        if shown := tally.best or tally.leading:
            where = f"{tally.names[shown['trial']]}, epoch {shown['best_epoch']}"
            grid.add_row(
                "best so far" if tally.best else "leading", f"{shown['score']:.4f} tune balanced accuracy · {where}"
            )
        for name, score in list(tally.baselines.items()):
            grid.add_row("", f"{score:.4f} {name}")
        rate, left = tally.epochs_per_second(now), tally.seconds_left(now)
        grid.add_row("speed", f"{rate:.2f} epochs/s" if rate else "measuring")
        grid.add_row("time left", f"about {duration(left)}" if left else "measuring")
        running = sorted(dict(tally.running).items())
        for number, row in running[:_RUNNING_SHOWN]:
            so_far = f" · {row['score']:.4f}" if row["score"] is not None else ""
            doing = f"epoch {row['epoch']}/{spec.max_epochs}" if row["epoch"] else "first epoch, and whatever it needs"
            grid.add_row("running", f"{tally.names[number]} · {doing}{so_far}")
        if len(running) > _RUNNING_SHOWN:
            grid.add_row("", f"and {len(running) - _RUNNING_SHOWN} more")
        return Group(
            Text(f"{spec.space.title} · {spec.data.corpus} · {spec.data.task}", style="bold"),
            grid,
            self._note,
        )


def unbroken(text: str, style: str = "") -> Text:
    """Text whose lines are left to the terminal to break, so that commands and paths can be copied whole."""
    return Text(text, style=style, no_wrap=True, overflow="ignore")


def printable(text: str) -> str:
    """The text without control characters, which class names and paths may hold."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def trial_name(row: Row) -> str:
    """What a trial is called: a published one by its name, the others by their number."""
    default = " (default)" if row["origin"] == "default" else ""
    return str(row["baseline"] or f"trial {row['trial']}{default}")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
