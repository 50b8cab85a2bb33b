"""Syne Tune as its documentation shows it: a script per trial, started by the local backend.

Its spaces know no conditions, so that what it proposes is a configuration's place in the list. It looks for results
every 0.1 s instead of every 5, which short trials would wait for.
"""

import logging
import os
import sys
from pathlib import Path

from jobs import GRACE_EPOCHS, REDUCTION_FACTOR, Job

# Last, so that all that the project has too is the project's own.
sys.path.append(os.environ["YARDSTICK_PEERS"])

from syne_tune import StoppingCriterion, Tuner
from syne_tune.backend import LocalBackend
from syne_tune.config_space import choice
from syne_tune.optimizer.baselines import ASHA, RandomSearch


def main() -> None:
    """Runs the list."""
    logging.getLogger().setLevel(logging.WARNING)
    job = Job.read(sys.argv[1])
    numbers = list(range(len(job.points)))
    space = {"number": choice(numbers), "job": str(job.file)}
    first = [{"number": number} for number in numbers]
    scheduler = (
        ASHA(
            space,
            metric="score",
            do_minimize=False,
            time_attr="epoch",
            max_t=job.epochs,
            grace_period=GRACE_EPOCHS,
            reduction_factor=REDUCTION_FACTOR,
            random_seed=0,
            points_to_evaluate=first,
        )
        if job.stopping
        else RandomSearch(space, metrics=["score"], do_minimize=False, random_seed=0, points_to_evaluate=first)
    )
    Tuner(
        trial_backend=LocalBackend(entry_point=str(Path(__file__).with_name("syne_tune_trial.py"))),
        scheduler=scheduler,
        # "More than" is what it says, and it then waits for those that run.
        stop_criterion=StoppingCriterion(max_num_trials_started=len(numbers) - 1),
        n_workers=job.slots,
        sleep_time=0.1,
        wait_trial_completion_when_stopping=True,
    ).run()


if __name__ == "__main__":
    main()
