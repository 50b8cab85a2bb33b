"""Does a lead hold on other instruments? Models of finished studies trained again on other splits of their corpus.

python benchmarks/resplit.py STUDY [STUDY …] [--splits 12] [--processes 2]

A test split of twenty instruments (artists, speakers) cannot tell models apart that differ by a few hundredths. Here
each chosen model and each published recipe is trained as in its study on random splits by group, each with its own
seed, and is scored on valid and test together, which no training looks at. A row per model: mean and standard deviation
of the balanced accuracy over the splits. Then by how much each chosen model leads each other one, clips of all splits
together, with a 95 % interval that resamples splits and groups within classes (Owen 2007, arXiv:0712.1111): once over
all groups, once over those alone that the studies trained on, by whose scores nothing was ever chosen. Both speak of
this corpus: training parts overlap.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis.load import Model, load_studies
from trainables import data, loop
from trainables.config import DataConfig, TrialConfig
from trainables.errors import UserError
from trainables.evaluate import predict
from trainables.files import BEST_WEIGHTS

_RESAMPLES = 2000


def held_out(model: Model, number: int) -> pd.DataFrame:
    """A row per held-out clip of one random split: `name`, `group`, `true`, and whether it is `right`."""
    config = TrialConfig.from_json(dict(model.config["config"]))
    own = replace(config, seed=1000 + number, data=replace(config.data, split="random", split_seed=number))
    inputs = data.trial_data(own.data, own.features, data.choose_device())
    with tempfile.TemporaryDirectory() as folder:
        for _ in loop.train(own, inputs, Path(folder)):
            pass
        table = predict(own, Path(folder) / BEST_WEIGHTS, ("valid", "test"))
    table["right"] = (table["predicted"] == table["true"]).astype(float)
    return table[["name", "group", "true", "right"]].sort_values("name").assign(split=number)


def balanced(rows: pd.DataFrame) -> float:
    """The mean over classes of the share that is right."""
    return float(rows.groupby("true")["right"].mean().mean())


def lead(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """The mean difference of two models on the same splits and its 95 % interval."""
    if one.empty:
        return "—"
    assert one[["split", "name", "true"]].equals(other[["split", "name", "true"]]), "the same clips in the same order"
    gain = one["right"].to_numpy() - other["right"].to_numpy()
    classes, groups, splits = (pd.factorize(one[column])[0] for column in ("true", "group", "split"))

    def difference(weights: npt.NDArray[np.float64]) -> float:
        return float((np.bincount(classes, weights=weights * gain) / np.bincount(classes, weights=weights)).mean())

    # A draw without any clip of some class has no balanced accuracy.
    weighted = (weights for weights in _weights(classes, groups, splits) if np.bincount(classes, weights=weights).all())
    drawn = [difference(weights) for weights in weighted]
    interval = "{:+.3f} … {:+.3f}".format(*np.quantile(drawn, [0.025, 0.975])) if drawn else "—"
    return f"{difference(np.ones(len(gain))):+.3f} ({interval})"


def _weights(
    classes: npt.NDArray[np.intp], groups: npt.NDArray[np.intp], splits: npt.NDArray[np.intp]
) -> Iterator[npt.NDArray[np.float64]]:
    """How often each row counts when splits, and groups within classes, are drawn with replacement."""
    rng = np.random.default_rng(0)
    members = pd.DataFrame({"group": groups, "class": classes}).groupby("group")["class"].agg(lambda c: c.mode()[0])
    by_class = [part.index.to_numpy() for _, part in members.groupby(members)]
    for _ in range(_RESAMPLES):
        drawn = np.concatenate([rng.choice(part, len(part)) for part in by_class])
        of_group = np.bincount(drawn, minlength=groups.max() + 1)
        of_split = np.bincount(rng.integers(splits.max() + 1, size=splits.max() + 1), minlength=splits.max() + 1)
        yield (of_group[groups] * of_split[splits]).astype(float)


def main() -> None:
    """Prints a row as soon as it is known, and the leads at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--splits", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    if given.splits < 2 or given.processes < 1:
        parser.error("--splits must be at least 2 and --processes at least 1.")
    try:
        models = comparable(given.studies)
        found = _trained(models, given.splits, given.processes)
    except UserError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    own = set.intersection(*(_trained_on(model) for model in models.values()))
    chosen = [name for name, model in models.items() if model.chosen]
    for words, only in (("all groups", None), ("groups that the studies trained on", own)):
        parts = {name: table if only is None else table[table["group"].isin(only)] for name, table in found.items()}
        print(f"\n| {words}, against | {' | '.join(chosen)} |\n|---|{'--:|' * len(chosen)}")
        for other in models:
            print(f"| {other} | {' | '.join('' if c == other else lead(parts[c], parts[other]) for c in chosen)} |")


def comparable(studies: list[str], *, same_split: bool = False) -> dict[str, Model]:
    """The scored models by name, with their study where a name alone would not do.

    Raises UserError unless there are two or more, of one corpus and one task and, if asked for, of one split.
    """
    models = load_studies(*studies).models
    twice = {name for name, times in Counter(model.name for model in models).items() if times > 1}
    named = {f"{model.study}/{model.name}" if model.name in twice else model.name: model for model in models}
    if len(named) < 2:
        raise UserError("There must be two models or more to compare: name finished studies, with their baselines.")
    parts = {replace(_data(model), corpus="") for model in models}
    if len({replace(part, split="", split_seed=0) for part in parts}) > 1:
        raise UserError("All studies must be of one corpus and one task, and these are not.")
    if same_split and len(parts) > 1:
        raise UserError("All studies must be of one split, with one seed where it is random, and these are not.")
    return named


def _trained(models: dict[str, Model], splits: int, processes: int) -> dict[str, pd.DataFrame]:
    """The held-out clips of all splits per model."""
    taken = {_data(model).split_seed for model in models.values() if _data(model).split == "random"}
    numbers = list(islice((number for number in count() if number not in taken), splits))
    found = {}
    screen = Console(stderr=True)
    print("| model | splits | held out | of each |\n|---|--:|--:|---|", flush=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        try:
            jobs = {
                name: [pool.submit(held_out, model, number) for number in numbers] for name, model in models.items()
            }
            for name, futures in jobs.items():
                parts = [future.result() for future in track(futures, name, console=screen, transient=True)]
                each = [balanced(part) for part in parts]
                cells = ", ".join(f"{value:.3f}" for value in each)
                print(f"| {name} | {splits} | {np.mean(each):.3f} ± {np.std(each, ddof=1):.3f} | {cells} |", flush=True)
                found[name] = pd.concat(parts, ignore_index=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found


def _data(model: Model) -> DataConfig:
    return DataConfig(**model.config["config"]["data"])


def _trained_on(model: Model) -> set[str]:
    """The groups of the training part of the model's study."""
    dataset = data.load(_data(model))
    return set(dataset.split.groups[dataset.rows("train")])


if __name__ == "__main__":
    main()
