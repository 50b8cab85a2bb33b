"""How much of a score is the seed: models of finished studies trained again with other seeds.

python benchmarks/seeds.py STUDY [STUDY …] [--seeds 5]

Each chosen model and each published recipe is trained as in its study but for the seed of its weights, its order and
its dropout. A row per model: mean and standard deviation over the seeds of the balanced accuracies on tune, valid and
test, then by how much each chosen model leads each published recipe on test, with a 95 % interval that resamples seeds,
groups within classes and clips within groups. Nothing is chosen by them. All studies are of one split.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

from resplit import comparable

from analysis.load import Model
from trainables import data, loop
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.evaluate import predict
from trainables.files import BEST_WEIGHTS
from trainables.scoring import classes_of, codes, mean_recall, resamples, summarise

SPLITS = ("tune", "valid", "test")


@dataclass(frozen=True)
class Runs:
    """A model trained with several seeds: per split the balanced accuracies, and of test its predictions."""

    name: str
    chosen: bool
    scores: dict[str, list[float]]
    predictions: list[pd.DataFrame]


def train(name: str, model: Model, seeds: int) -> Runs:
    """A model trained anew with each seed."""
    config = TrialConfig.from_json(dict(model.config["config"]))
    inputs = data.trial_data(config.data, config.features, data.choose_device())
    found: dict[str, list[float]] = {split: [] for split in SPLITS}
    tables = []
    for seed in range(seeds):
        own = replace(config, seed=1000 + seed)
        with tempfile.TemporaryDirectory() as folder:
            for _ in loop.train(own, inputs, Path(folder)):
                pass
            table = predict(own, Path(folder) / BEST_WEIGHTS, SPLITS)
        for split, row in summarise(table).items():
            found[split].append(row["balanced_accuracy"])
        tables.append(table[table["split"] == "test"].sort_values("name"))
    return Runs(name, model.chosen, found, tables)


def lead(one: Runs, other: Runs) -> tuple[float, float, float]:
    """The mean difference on test and its 95 % interval."""
    first = one.predictions[0]
    true = codes(first["true"], classes_of(first))
    right, others = (
        np.array([(table["predicted"] == table["true"]).to_numpy(dtype=float) for table in runs.predictions])
        for runs in (one, other)
    )

    def difference(rows: npt.NDArray[np.int64], mine: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]) -> float:
        return mean_recall(true[rows], right[mine][:, rows].mean(0) - others[theirs][:, rows].mean(0))

    rng = np.random.default_rng(0)
    drawn = [
        difference(rows, rng.integers(len(right), size=len(right)), rng.integers(len(others), size=len(others)))
        for rows in resamples(true, first["group"].to_numpy(dtype=str), 0)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return difference(np.arange(len(true)), np.arange(len(right)), np.arange(len(others))), float(low), float(high)


def main() -> None:
    """Prints a row as soon as it is known, and the leads at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error(f"--seeds must be at least 2, or there is no spread to tell, but is {given.seeds}.")
    models = comparable(given.studies, same_split=True)
    print("| model | seeds | tune | valid | test | test of each |\n|---|--:|--:|--:|--:|---|", flush=True)
    found = []
    for name, model in models.items():
        runs = train(name, model, given.seeds)
        cells = [f"{statistics.mean(v):.3f} ± {statistics.stdev(v):.3f}" for v in runs.scores.values()]
        each = ", ".join(f"{value:.3f}" for value in runs.scores["test"])
        print(f"| {name} | {given.seeds} | {' | '.join(cells)} | {each} |", flush=True)
        found.append(runs)
    chosen = [runs for runs in found if runs.chosen]
    print(f"\n| test, against | {' | '.join(runs.name for runs in chosen)} |\n|---|{'--:|' * len(chosen)}")
    for recipe in (runs for runs in found if not runs.chosen):
        leads = [f"{gain:+.3f} ({low:+.3f} … {high:+.3f})" for gain, low, high in (lead(c, recipe) for c in chosen)]
        print(f"| {recipe.name} | {' | '.join(leads)} |")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
