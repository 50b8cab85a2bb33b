"""Optuna alone, as its tutorial on parallel optimisation shows: a process per slot on one journal file."""

import sys

import optuna
from jobs import GRACE_EPOCHS, REDUCTION_FACTOR, Job, in_slots
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState


def main() -> None:
    """Makes the study and starts the slots, or optimises in one."""
    job = Job.read(sys.argv[1])
    storage = JournalStorage(JournalFileBackend(f"{job.folder}/optuna.log"))
    if len(sys.argv) == 2:
        study = optuna.create_study(study_name="yardstick", storage=storage, direction="maximize")
        for point in job.points:
            study.enqueue_trial(point)
        in_slots(__file__, job)
        return
    optimise(job, storage)


def optimise(job: Job, storage: JournalStorage) -> None:
    """Works the queue off, beside the other processes."""
    from trials import space_of, train

    space = space_of(job)

    def objective(trial: optuna.Trial) -> float:
        score = 0.0
        for report in train(job, job.number(space(trial))):
            score = report.score
            trial.report(score, report.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return score

    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=GRACE_EPOCHS, reduction_factor=REDUCTION_FACTOR)
    study = optuna.load_study(
        study_name="yardstick", storage=storage, pruner=halving if job.stopping else optuna.pruners.NopPruner()
    )
    begun = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
    study.optimize(objective, callbacks=[MaxTrialsCallback(len(job.points), states=begun)])


if __name__ == "__main__":
    main()
