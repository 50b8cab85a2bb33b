"""This project: its main command, as it is, but that what its sampler proposes is the list.

It ends where the search does. Scoring the winner on the other splits, as the command does then, is what no peer does;
nor is Torch, which the command itself needs for that alone, imported by it.
"""

import contextlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from jobs import GRACE_EPOCHS, REDUCTION_FACTOR, Job

from search import forks


def main() -> None:
    """Runs the command in the order in which it begins."""
    with forks.server():
        _run(Job.read(sys.argv[1]))


def _run(job: Job) -> NoReturn:
    """Runs the command, then notes the epochs that its journal has."""
    from search import engine, finish, run, searcher, session
    from search.records import EPOCHS, TRIALS, read_rows
    from spaces.domains import Params, Value
    from trainables.files import cache_folder

    # Inputs that an earlier run prepared would be an advantage over tools that prepare theirs in every run.
    shutil.rmtree(cache_folder() / "prepared", ignore_errors=True)

    class Listed(searcher.Sampler):
        """Proposes the list."""

        def ask(self, number: int, fixed: Mapping[str, Value] | None = None) -> Params:
            return super().ask(number, job.points[number])

    def leave(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    engine.Sampler = Listed  # type: ignore[attr-defined]
    finish.finish = leave  # type: ignore[assignment]
    session._torch_in_time = contextlib.nullcontext  # type: ignore[assignment]
    sys.argv = [sys.argv[0], *_arguments(job)]
    try:
        run.main()
    except SystemExit as ended:
        if ended.code != run.INTERRUPTED:
            raise
    study = Path(job.folder) / "studies" / "yardstick"
    for row in read_rows(study / EPOCHS):
        job.note(row["trial"], row["epoch"], row["score"], row["time"])
    ends = [row for row in read_rows(study / TRIALS) if row["event"] == "ended"]
    if len(ends) < len(job.points):
        raise SystemExit(f"{len(ends)} of {len(job.points)} trials ended.")
    run.leave(run.FINISHED)  # as the command itself


def _arguments(job: Job) -> list[str]:
    fixed = [part for wish in job.fixed for part in ("--fix", wish)]
    grace = GRACE_EPOCHS if job.stopping else job.epochs
    return [
        *("--space", job.family, "--data", job.data["corpus"], "--task", job.data["task"], *fixed),
        *("--trials", str(len(job.points)), "--max-epochs", str(job.epochs), "--grace-epochs", str(grace)),
        *("--reduction-factor", str(REDUCTION_FACTOR), "--no-baselines", "--cpus-per-trial", "1"),
        *("--concurrency", str(job.slots), "--storage", str(Path(job.folder) / "studies"), "--name", "yardstick"),
    ]


if __name__ == "__main__":
    main()
