"""The recorded learning curves, and which of them stands for a point of a space.

Like a point are the recorded configurations with which it shares leaves of an extremely randomised forest, fitted on
the curves so that it splits by what matters; the more leaves the more likely, and weighted so that random points get
each recorded configuration as often as any other.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from record_curves import EPOCHS, MORE_SEEDS, RECORDED, TABLE, space_of
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from spaces.domains import Choice, Space, Value

Params = dict[str, Value]
_TREES = 256
_CLIP_SECONDS = 2.0  # of the corpus that the curves were recorded on


@dataclass(frozen=True)
class Curves:
    """What was recorded under a name: per trial its configuration, parameters, scores `(epochs,)`, seconds per epoch.

    `ends` has the best scores by configuration and seed, with those of the seeds that no search is given.
    """

    name: str
    configurations: list[int]
    params: list[Params]
    scores: list[npt.NDArray[np.float64]]
    seconds: list[float]
    ends: "pd.Series[float]"

    @classmethod
    @cache
    def load(cls, name: str) -> "Curves":
        """Those in the table; an epoch in which a trial diverged scores nothing."""
        table = pd.read_parquet(TABLE)
        table = table[table["family"] == name]
        ends = table.groupby(["configuration", "seed"])["score"].max()
        rows = table[~table["seed"].isin(MORE_SEEDS)].groupby(["configuration", "seed"])
        trials = [trial.sort_values("epoch") for _, trial in rows]
        return cls(
            name,
            [int(trial["configuration"].iloc[0]) for trial in trials],
            [json.loads(trial["params"].iloc[0]) for trial in trials],
            [trial["tune_balanced_accuracy"].where(trial["failure"].isna(), 0.0).to_numpy() for trial in trials],
            [float(trial["epoch_seconds"].mean()) for trial in trials],
            ends,
        )

    @cached_property
    def space(self) -> Space:
        """The space that was recorded."""
        return space_of(RECORDED[self.name][0], _CLIP_SECONDS)

    @cached_property
    def regrets(self) -> npt.NDArray[np.float64]:
        """Of each recorded trial at its end, as shown and as expected `(trials, 2)`."""
        shown = np.array([scores.max() for scores in self.scores])
        return np.stack([shown.max() - shown, self.expected.max() - self.expected], axis=1)

    @cached_property
    def expected(self) -> npt.NDArray[np.float64]:
        """For each recorded trial the score that its configuration is expected to end with, whatever the seed.

        The mean of its seeds, drawn towards what a forest of the other configurations predicts, the more the wider the
        seeds spread and the nearer configurations lie to their predictions (empirical Bayes). The spread of seeds is
        taken from the later ones of the best, since their first had them chosen; that about predictions from the half
        that is predicted best, as most of the others are near chance.
        """
        seeds = self.ends.groupby("configuration")
        mean, count_of = seeds.mean(), seeds.size()
        later = self.ends[self.ends.index.get_level_values("seed") > 0].groupby("configuration")
        assert later.size().max() > 1, f"{self.name}: no configuration has two later seeds"
        noise = float(later.var().mean()) / count_of
        first = [self.configurations.index(number) for number in mean.index]
        places = np.array([self._place(self.params[trial]) for trial in first], dtype=np.float32)
        forest = ExtraTreesRegressor(_TREES, max_features=0.5, min_samples_leaf=2, random_state=0)
        predicted = cross_val_predict(forest, places, mean, cv=KFold(10, shuffle=True, random_state=0))
        learnt = predicted > np.median(predicted)
        spread = max(float(((mean - predicted) ** 2 - noise)[learnt].mean()), 0.0)
        found = predicted + (mean - predicted) * spread / (spread + noise)
        return found.loc[self.configurations].to_numpy()

    @cached_property
    def wanted(self) -> npt.NDArray[np.float64]:
        """The share of each recorded trial in the space: as much for each configuration, halved between its seeds."""
        shares = 1 / np.array([self.configurations.count(number) for number in self.configurations])
        return shares / shares.sum()

    @cached_property
    def weights(self) -> npt.NDArray[np.float64]:
        """For each recorded trial, so that random points get it as often as `wanted`.

        For each is itself a random point, save the default, which counts as one more. Without weights the best of the
        1-D CNN's stood for more than twice its share.
        """
        points = random_points(self.space, 0)
        shares = self.shares([points(number) for number in range(1000)])
        found = self.wanted.copy()
        assert (shares.max(0) > 0).all(), "a recorded trial that stands for no point can have no weight"
        for _ in range(100):
            found *= self.wanted / _chances(shares, found).mean(0)
            found /= found.max()
        return found

    def shares(self, points: list[Params]) -> npt.NDArray[np.float64]:
        """The share of trees in which each recorded trial lies in the leaf of each point `(points, trials)`."""
        forest, leaves = self._forest
        of_points = forest.apply(np.array([self._place(params) for params in points], dtype=np.float32))
        shares = np.zeros((len(points), len(leaves)))
        for mine, recorded in zip(of_points.T, leaves.T, strict=True):
            same = mine[:, None] == recorded
            shares += same / same.sum(1, keepdims=True) / leaves.shape[1]
        return shares

    def like(self, params: Params, seed: int) -> int:
        """The number of the recorded trial that stands for a point."""
        chances = _chances(self.shares([params]), self.weights)[0]
        return int(np.random.default_rng(seed).choice(len(chances), p=chances))

    @cached_property
    def _forest(self) -> tuple[ExtraTreesRegressor, npt.NDArray[np.int64]]:
        """The forest, and the leaf of each tree that each recorded trial lies in `(trials, trees)`."""
        places = np.array([self._place(params) for params in self.params], dtype=np.float32)
        curves = np.array([np.pad(scores, (0, EPOCHS - len(scores)), mode="edge") for scores in self.scores])
        forest = ExtraTreesRegressor(_TREES, max_features=0.5, random_state=0).fit(places, curves)
        return forest, forest.apply(places)

    def _place(self, params: Params) -> list[float]:
        """A point as numbers: choices one by one, none of them where it does not apply; a number is -1 then."""
        place: list[float] = []
        for param in self.space.params:
            value = params.get(param.name)
            if isinstance(param.domain, Choice):
                place += [float(value == option) for option in param.domain.options]
            else:
                number = -1.0 if value is None else float(value)
                place.append(np.log(number) if param.domain.log and number > 0 else number)
        return place


def _chances(likeness: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The chance of each recorded trial to stand for each point `(points, trials)`."""
    chances = likeness * weights
    chances /= chances.sum(1, keepdims=True)
    return chances


def random_points(space: Space, seed: int) -> Callable[[int], Params]:
    """Points by number."""

    def point(number: int) -> Params:
        sampler = optuna.samplers.RandomSampler(int(np.random.SeedSequence((seed, number)).generate_state(1)[0]))
        return dict(space(optuna.create_study(sampler=sampler).ask()))

    return point
