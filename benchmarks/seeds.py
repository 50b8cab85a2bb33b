"""How much of a score is the seed: models of finished studies trained again with other seeds.

python benchmarks/seeds.py STUDY [STUDY …] [--seeds 5]

Each chosen model and each published recipe is trained as in its study but for the seed of its weights, its order and
its dropout. A row per model: mean and standard deviation over the seeds of the balanced accuracies on tune, valid and
test. Nothing is chosen by them.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis import load_studies
from trainables import data, loop
from trainables.config import TrialConfig
from trainables.evaluate import predict
from trainables.files import WEIGHTS
from trainables.scoring import summarise

SPLITS = ("tune", "valid", "test")


def scores(config: TrialConfig) -> dict[str, float]:
    """The balanced accuracies of a configuration trained anew."""
    inputs = data.trial_data(config.data, config.features, data.choose_device())
    with tempfile.TemporaryDirectory() as folder:
        for _ in loop.train(config, inputs, Path(folder)):
            pass
        found = summarise(predict(config, Path(folder) / WEIGHTS, SPLITS))
    return {split: found[split]["balanced_accuracy"] for split in SPLITS}


def main() -> None:
    """Prints the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    print("| model | seeds | tune | valid | test | test of each |\n|---|--:|--:|--:|--:|---|", flush=True)
    for model in load_studies(*given.studies).models:
        config = TrialConfig.from_json(dict(model.config["config"]))
        found = [scores(replace(config, seed=1000 + seed)) for seed in range(given.seeds)]
        cells = []
        for split in SPLITS:
            values = [row[split] for row in found]
            cells.append(f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}")
        each = ", ".join(f"{row['test']:.3f}" for row in found)
        print(f"| {model.name} | {given.seeds} | {' | '.join(cells)} | {each} |", flush=True)


if __name__ == "__main__":
    main()
