"""Ray Tune as its documentation shows it: a function that loads its data and reports, OptunaSearch, ASHAScheduler."""

import sys
from functools import partial
from typing import Any

import optuna
import ray
from jobs import GRACE_EPOCHS, REDUCTION_FACTOR, Job
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch


def define(job: Job, trial: optuna.Trial) -> None:
    """The space, by run; of the module, because Tune pickles it."""
    from trials import space_of

    space_of(job)(trial)


def main() -> None:
    """Runs the list."""
    job = Job.read(sys.argv[1])

    def trainable(config: dict[str, Any]) -> None:
        from trials import train

        for report in train(job, job.number(config)):
            tune.report({"score": report.score})

    ray.init(address="local", num_cpus=job.slots)
    halving = ASHAScheduler(max_t=job.epochs, grace_period=GRACE_EPOCHS, reduction_factor=REDUCTION_FACTOR)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            search_alg=OptunaSearch(partial(define, job), metric="score", mode="max", points_to_evaluate=job.points),
            scheduler=halving if job.stopping else None,
            num_samples=len(job.points),
        ),
        run_config=tune.RunConfig(storage_path=f"{job.folder}/ray_results"),
    )
    results = tuner.fit()
    if results.errors:
        raise SystemExit(str(results.errors[0]))


if __name__ == "__main__":
    main()
