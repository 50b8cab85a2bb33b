"""Learning curves of random configurations, recorded once, for `replay.py` to run searches on without training.

python benchmarks/record_curves.py --data nsynth:PATH [--configurations 120] [--folder curves]

For the MLP, the 1-D CNN and the LSTM, random points of the space train for 27 epochs on every fourth training note, for
"lstm-all" on every one, and are scored on the whole tune split; every fifth with a second seed, then the best eighth
of each with two more, which say how good these are beyond one seed's luck. A trial that is recorded already is not
trained again, so it may be interrupted. The end is `benchmarks/curves.parquet`, with a row per epoch.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import spaces
from search import adapt
from spaces.domains import Space
from trainables import corpora, data, loop
from trainables.config import DataConfig, point, resolve
from trainables.data import Part, TrialData
from trainables.errors import UserError

EPOCHS, SECOND_SEED_EVERY = 27, 5
MORE_SEEDS, MORE_SEEDS_OF_BEST = (2, 3), 8
# What would make a recording take days on two cores is left out: raw audio at full rate, the widest layers.
RESTRICTED = {
    "mlp": (),
    "cnn1d": ("resample_hz=2000,4000", *(f"channels_{layer}=8..64" for layer in range(1, 6))),
    "lstm": ("frame_ms=20..80", "width_1=32..128", "width_2=32..128", "width_3=32..128"),
}
# What is recorded: the family, and of how many training notes each is the one it trains on.
RECORDED = {"mlp": ("mlp", 4), "cnn1d": ("cnn1d", 4), "lstm": ("lstm", 4), "lstm-all": ("lstm", 1)}
TABLE = Path(__file__).with_name("curves.parquet")


def space_of(family: str, clip_seconds: float) -> Space:
    """The family's space as it is recorded."""
    return adapt.fixed(adapt.fitted(spaces.load(family), clip_seconds), RESTRICTED[family])


def points(space: Space, n: int) -> list[dict[str, Any]]:
    """The default and random points, the same every time."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [dict(space.default), *(space(study.ask()) for _ in range(n - 1))]


def thinned(inputs: TrialData, every: int) -> TrialData:
    """With one of `every` training examples."""
    part = inputs.parts["train"]
    assert part.clips is None, "segments of one clip would be torn apart"
    kept = torch.arange(0, len(part.labels), every, device=part.labels.device)
    train = Part(part.labels[kept], lambda positions: part.fetch(kept[positions]))
    return replace(inputs, parts={**inputs.parts, "train": train})


def record(name: str, number: int, params: dict[str, Any], seed: int, config: DataConfig, path: Path) -> None:
    """Trains one configuration and writes its rows."""
    os.nice(10)
    family, every = RECORDED[name]
    store = corpora.open_corpus(config.corpus)
    space = space_of(family, store.clip_seconds)
    trial = resolve(point(space, params, data=config, seed=seed, max_epochs=EPOCHS, threads=1))
    device = data.choose_device()
    data.release(trial.data, trial.features)
    inputs = thinned(data.trial_data(trial.data, trial.features, device), every)
    kept = ("epoch", "score", "tune_balanced_accuracy", "epoch_seconds", "failure", "ended")
    what = {"family": name, "configuration": number, "seed": seed, "params": json.dumps(params, sort_keys=True)}
    rows, before = [], time.process_time()
    for report in loop.train(trial, inputs):
        now = time.process_time()
        # Processor time, since the machine may be busy with other work meanwhile; a trial has one thread.
        rows.append(what | {name: asdict(report)[name] for name in kept} | {"epoch_seconds": now - before})
        before = now
    path.with_suffix(".part").write_text(json.dumps(rows))
    path.with_suffix(".part").rename(path)


def best_of(name: str, configurations: int, folder: Path) -> list[int]:
    """The eighth of the configurations whose first seeds had the best scores."""
    trials = [json.loads((folder / f"{name}-{number:04d}-0.json").read_text()) for number in range(configurations)]
    scores = [trial[-1]["score"] for trial in trials]
    return sorted(range(configurations), key=lambda number: -scores[number])[: configurations // MORE_SEEDS_OF_BEST]


def main() -> None:
    """Records what is missing, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--configurations", type=int, default=120)
    parser.add_argument("--folder", type=Path, default=Path("curves"))
    parser.add_argument("--families", nargs="+", choices=RECORDED, default=[*RECORDED])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    named = corpora.absolute(given.data)
    store = corpora.open_corpus(named)
    task = corpora.tasks(named)[0]
    how = corpora.splits_of(named)[0]
    config = DataConfig(named, store.digest, task, False, how, 0)
    found = {
        name: points(space_of(RECORDED[name][0], store.clip_seconds), given.configurations) for name in given.families
    }
    first = [
        (name, number, seed)
        for name in given.families
        for number in range(given.configurations)
        for seed in range(1 + (number % SECOND_SEED_EVERY == 0))
    ]
    with ProcessPoolExecutor(given.processes) as pool:

        def record_missing(trials: list[tuple[str, int, int]]) -> None:
            paths = {trial: given.folder / "{}-{:04d}-{}.json".format(*trial) for trial in trials}
            running = {
                pool.submit(record, name, number, found[name][number], seed, config, path): path.stem
                for (name, number, seed), path in paths.items()
                if not path.exists()
            }
            for done, future in enumerate(as_completed(running), 1):
                future.result()
                print(f"{done} of {len(running)}: {running[future]}", flush=True)

        record_missing(first)
        record_missing(
            [
                (name, number, seed)
                for name in given.families
                for number in best_of(name, given.configurations, given.folder)
                for seed in MORE_SEEDS
            ]
        )
    rows = [row for path in sorted(given.folder.glob("*.json")) for row in json.loads(path.read_text())]
    table = pd.DataFrame(rows).sort_values(["family", "configuration", "seed", "epoch"], ignore_index=True)
    table.to_parquet(TABLE, compression="zstd", index=False)
    print(f"{TABLE}: {len(table)} epochs of {table.groupby(['family', 'configuration', 'seed']).ngroups} trials")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
