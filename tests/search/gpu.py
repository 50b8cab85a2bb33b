"""A study on a Ray that is told of a GPU: `python -m tests.search.gpu CORPUS STUDY FAULTS GPUS_PER_TRIAL`."""

import json
import os
import sys
from pathlib import Path

import ray

from search.engine import Engine
from search.machines import Machines
from search.records import Journal
from search.slots import Resources
from search.study import StudySpec
from search.tuning import run_trials
from tests import faulty
from trainables import corpora
from trainables.config import DataConfig


def main() -> None:
    """Prints the advice, then per trial its fault, its end and the last epoch."""
    corpus, study, faults, gpus = sys.argv[1:]
    data = DataConfig(
        corpus=corpus,
        digest=corpora.open_corpus(corpus).digest,
        task="family",
        keep_synth_lead=False,
        split="official",
        split_seed=0,
    )
    space = faulty.space(tuple(faults.split(",")))
    spec = StudySpec("gpu", space, data, 5, 3, 3, 3, seed=0, cpus_per_trial=1, with_baselines=False)
    root = str(Path(__file__).parents[2])
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": root, "ETUDE_CACHE": os.environ["ETUDE_CACHE"]}},
    )
    engine = Engine(spec, Journal(Path(study)))
    machines = Machines(1, float(gpus), 2)
    run_trials(engine, Resources(1, float(gpus), 2), lambda: False, machines)
    print(json.dumps(machines.advice()))
    print(json.dumps([(trial.params["fault"], trial.state, trial.epoch, trial.reason) for trial in engine.trials]))


if __name__ == "__main__":
    main()
