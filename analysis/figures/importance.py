"""How much each parameter mattered: Optuna's conditional PED-ANOVA, and fANOVA, with bootstrap intervals."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from analysis.figures import Figure, Item, Missing, style
from analysis.load import Studies, Study
from spaces.domains import Choice, Int, Param, Value

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.importance import BaseImportanceEvaluator
    from optuna.trial import FrozenTrial

METHODS = PED_ANOVA, FANOVA = "PED-ANOVA", "fANOVA"

_FEWEST = 10  # trials at full length
_BARS = 15
_BAR = "#5b6b7b"  # no family's colour

# A forest of 32 shallow trees for the value, of 4 for each resample: main effects need no more depth, and a deep
# forest on 300 trials would take seconds.
_TREES, _TREES_RESAMPLED, _DEPTH = 32, 4, 4


def items(studies: Studies) -> Iterator[Item]:
    """For each study the importance of its parameters."""
    for study in studies.studies:
        yield importance(study)


def importance(study: Study) -> Figure | Missing:
    """Both methods' importances, the most important parameter first."""
    name, title = style.file_name("importance", study.name), f"Hyperparameter importance: {study.name}"
    if reason := unknowable(study):
        return Missing(name, title, reason)
    data = importances(study)
    if data.empty:
        return Missing(name, title, "Neither method finds any parameter by which the best trials differ from the rest.")
    trials, parameters = len(_full(study)), data["parameter"].nunique()
    few = f"The {_BARS} first of {parameters} parameters" if parameters > _BARS else f"{parameters} parameters"
    caption = (
        f"How much of the score (balanced accuracy on tune) depends on each parameter, from the {trials} trials of "
        f"{study.name} at full length. Each method's parts add up to one. {PED_ANOVA} asks what tells the best "
        f"{_best_share(trials):.0%} from all and covers parameters that apply to some trials only; {FANOVA} asks what "
        f"regression trees make of the whole range and leaves those out. In the order of the mean of both. Lines: "
        f"the middle 90 % of {_resamples(trials)} resamples of the trials; since these repeat trials, a "
        f"value may lie outside its line. Importance says nothing of direction: see the scores against each parameter. "
        f"{few}, n = {trials} trials."
    )
    return Figure(name, title, caption, data, _draw)


def unknowable(study: Study) -> str | None:
    """Why nothing can be said of importance; None where something can."""
    rows = _full(study)
    if len(rows) < _FEWEST:
        there = {0: "there is none", 1: "there is one"}.get(len(rows), f"there are {len(rows)}")
        return f"Importance needs at least {_FEWEST} trials at full length, but {there}."
    if rows["score"].nunique() < 2:
        return f"All {len(rows)} trials at full length have the same score, so no parameter can explain it."
    if not _varied(study, rows):
        return "No parameter varied among the trials at full length, so none can explain the scores."
    return None


def in_order(study: Study) -> str:
    """How the parameters of `ranking` are ordered, in words."""
    if unknowable(study) is None:
        return "the most important first"
    return "those with most different values first, since importance cannot be told"


def ranking(study: Study) -> list[str]:
    """The parameters, the most important first as in `importances`; where that cannot tell, those with most values."""
    names = [param.name for param in study.space.params]
    columns = study.trials.reindex(columns=[f"param.{name}" for name in names])
    values = {name: int(columns[f"param.{name}"].nunique()) for name in names}
    both: dict[str, float] = {}
    if unknowable(study) is None:
        with _quiet():
            trials = _optuna_trials(study)
            for method in METHODS:
                for name, part in (_parts(method, trials, names, 0, _TREES) or {}).items():
                    both[name] = both.get(name, 0.0) + part
    return sorted(names, key=lambda name: (-both.get(name, 0.0), -values[name]))


def importances(study: Study) -> pd.DataFrame:
    """A row per parameter and method: `parameter`, `method`, `importance`, `low`, `high`; the most important first.

    The order is that of the mean of both methods, where what one leaves out counts as nothing there and has no row:
    with few trials PED-ANOVA finds much in parameters that apply to a handful of them. `low` and `high` enclose the
    middle 90 % of a bootstrap over trials. Only for studies of which something can be known: see `unknowable`.
    """
    names = _varied(study, _full(study))
    rng = np.random.default_rng(0)
    rows = []
    with _quiet():
        trials = _optuna_trials(study)
        drawn = [rng.integers(0, len(trials), len(trials)) for _ in range(_resamples(len(trials)))]
        for method in METHODS:
            parts = _parts(method, trials, names, 0, _TREES) or {}
            again = [
                found
                for seed, places in enumerate(drawn)
                if (found := _parts(method, [trials[place] for place in places], list(parts), seed, _TREES_RESAMPLED))
            ]
            for name, part in parts.items():
                low, high = _middle([found.get(name, 0.0) for found in again])
                rows.append({"parameter": name, "method": method, "importance": part, "low": low, "high": high})
    table = pd.DataFrame(rows, columns=["parameter", "method", "importance", "low", "high"])
    both = table.groupby("parameter")["importance"].sum()
    place = {name: number for number, name in enumerate(names)}
    order = sorted(both.index, key=lambda name: (-both[name], place[name]))
    rank = {name: number for number, name in enumerate(order)}
    return table.sort_values("parameter", key=lambda column: column.map(rank), kind="stable", ignore_index=True)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return math.nan, math.nan
    low, high = np.quantile(values, [0.05, 0.95])
    return float(low), float(high)


def _resamples(trials: int) -> int:
    """How many resamples: fewer of many trials, which take longer and vary less. All of them take about a second."""
    return min(24, max(10, 1800 // trials))


def _best_share(trials: int) -> float:
    """Which part of the trials counts as the best: a tenth as in Optuna, but ten trials where that is not half of all.

    Its authors advise five at least. On 16 made-up studies with 21 to 40 trials, of which only the learning rate
    mattered, five found it in 10, ten in 13.
    """
    return max(0.1, min(0.5, 10 / trials))


def _full(study: Study) -> pd.DataFrame:
    """The trials at full length that have a score."""
    trials = study.trials
    scores = trials["score"].to_numpy("float64", na_value=np.nan)
    found: pd.DataFrame = trials.loc[trials["full"].to_numpy(bool) & np.isfinite(scores)]
    return found


def _varied(study: Study, rows: pd.DataFrame) -> list[str]:
    """The parameters that have at least two values in `rows`, or apply to only some of them, in the space's order."""
    columns = rows.reindex(columns=[f"param.{param.name}" for param in study.space.params])
    many = columns.nunique(dropna=False) > 1
    return [param.name for param in study.space.params if many[f"param.{param.name}"]]


def _parts(
    method: str, trials: Sequence["FrozenTrial"], names: Sequence[str], seed: int, trees: int
) -> dict[str, float] | None:
    """The importance of each of `names` that the method covers, adding up to one; None where it finds none at all."""
    import optuna

    there = set().union(*(trial.params for trial in trials))
    evaluator: BaseImportanceEvaluator
    if method == PED_ANOVA:
        asked = [name for name in names if name in there]
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_best_share(len(trials)))
    else:
        asked = [name for name in names if all(name in trial.params for trial in trials)]
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=trees, max_depth=_DEPTH, seed=seed)
    if not asked:
        return None
    try:
        found = optuna.importance.get_param_importances(
            _as_study(trials), evaluator=evaluator, params=asked, normalize=False
        )
    except RuntimeError:  # fANOVA's trees see no variance: almost all scores of the resample are the same
        return None
    total = math.fsum(found.values())
    return {name: float(found[name]) / total for name in asked} if total > 0 else None


def _as_study(trials: Sequence["FrozenTrial"]) -> "optuna.Study":
    """An Optuna study that has these trials, some of them perhaps several times.

    To add the trials of each resample to a study of its own would take longer than all the rest.
    """
    import optuna

    class Resampled(optuna.Study):
        def get_trials(self, deepcopy: bool = True, states: Any = None) -> list["FrozenTrial"]:
            """The trials; all of them are complete."""
            return list(trials)

    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="importance", direction="maximize")
    return Resampled("importance", storage)


def _optuna_trials(study: Study) -> list["FrozenTrial"]:
    """The trials at full length as Optuna's. A recipe outside the space counts as its nearest point, as in the search.

    Logarithms stand for values of logarithmic ranges: fANOVA would else weigh these ranges as if they were linear.
    """
    import optuna

    rows = _full(study)
    known = [param for param in study.space.params if f"param.{param.name}" in rows]
    distributions = {param.name: _distribution(param) for param in known}
    made = optuna.create_study(direction="maximize")
    for row in rows[["score", *(f"param.{param.name}" for param in known)]].to_dict("records"):
        params = {
            param.name: _internal(param, value) for param in known if not pd.isna(value := row[f"param.{param.name}"])
        }
        own = {name: distributions[name] for name in params}
        made.add_trial(optuna.trial.create_trial(params=params, distributions=own, value=float(row["score"])))
    return made.get_trials(deepcopy=False)  # numbered now, by which PED-ANOVA tells them apart


def _distribution(param: Param) -> "BaseDistribution":
    from optuna import distributions

    domain = param.domain
    if isinstance(domain, Choice):
        return distributions.CategoricalDistribution(domain.options)
    if domain.log:
        return distributions.FloatDistribution(math.log(domain.low), math.log(domain.high))
    if isinstance(domain, Int):
        return distributions.IntDistribution(domain.low, domain.high, step=domain.step)
    return distributions.FloatDistribution(domain.low, domain.high)


def _internal(param: Param, value: Any) -> Value:
    plain = value.item() if isinstance(value, np.generic) else value
    nearest = param.domain.nearest(plain)
    return math.log(float(nearest)) if not isinstance(param.domain, Choice) and param.domain.log else nearest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's notes that a resample is small, that a study was made, and that a notebook lacks widgets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import optuna

        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)


def _draw(data: pd.DataFrame) -> Drawing:
    names = list(dict.fromkeys(data["parameter"]))[:_BARS]
    drawing = style.new(0.75 + 0.23 * len(names))
    left, right = drawing.subplots(1, 2, sharey=True)
    for panel, method in ((left, PED_ANOVA), (right, FANOVA)):
        _bars(panel, data[data["method"].eq(method)].set_index("parameter").reindex(names), method)
    left.set_yticks(range(len(names)), [style.shorten(name, 24) for name in names])
    left.set_ylim(len(names) - 0.5, -0.5)
    return drawing


def _bars(panel: Axes, rows: pd.DataFrame, method: str) -> None:
    values, low, high = (rows[column].to_numpy("float64") for column in ("importance", "low", "high"))
    places: npt.NDArray[np.int64] = np.arange(len(rows))
    known = ~np.isnan(values)
    panel.barh(places[known], values[known], height=0.66, color=_BAR, alpha=0.75)
    panel.hlines(places[known], low[known], high[known], color=style.INK, linewidth=1.3)
    panel.scatter(
        np.r_[low[known], high[known]], np.r_[places[known], places[known]], s=26, marker="|", color=style.INK
    )
    # fANOVA can tell only of what is in every trial; either may see no difference at all.
    why = "not in every trial" if known.any() else "none found"
    for place in places[~known]:
        panel.text(0.005, place, why, fontsize=7, color="#6a6a6a", va="center")
    panel.grid(visible=False, axis="y")
    panel.set_xlim(0, max(0.05, float(np.nanmax(np.r_[values, high], initial=0.05)) * 1.05))
    panel.set_title(method)
    panel.set_xlabel("importance, parts of one")
    panel.tick_params(axis="y", length=0)
